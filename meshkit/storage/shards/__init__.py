"""Where a storage peer has the shares that it keeps."""
