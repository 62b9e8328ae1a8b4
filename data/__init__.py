"""Reading, describing, splitting and transforming radiographs. Files are code; folders are downloaded data sets."""
