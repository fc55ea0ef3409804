"""What machines ask of a database: metrics."""
