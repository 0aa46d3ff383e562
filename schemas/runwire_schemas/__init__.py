"""The contract between both ends: events, their Avro schemas, the envelope, topics and the folder layout."""
