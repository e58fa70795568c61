"""One way to read: a scan is exact values on one grid, or an error with name, place and remedy."""
