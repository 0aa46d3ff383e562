"""The runwire command; the only place that knows both the producer and the consumer."""
