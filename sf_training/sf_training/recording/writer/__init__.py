"""Write one episode to disk: MCAP file, metadata.yaml, checksum."""
