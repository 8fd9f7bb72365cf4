"""The report page: results as one HTML file that opens from disk, without network."""
