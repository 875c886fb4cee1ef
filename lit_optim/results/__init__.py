"""What came out of runs: read from their directories, compared, drawn and written down."""
