"""Files and data sets to records, one file a format."""
