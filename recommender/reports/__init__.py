"""Reports for people: one HTML file that opens offline, from the log of served pages."""
