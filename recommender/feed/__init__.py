"""From a request to a page: resolve, run, select, show, record, explain."""
