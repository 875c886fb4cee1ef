"""The configuration: parsed, composed and checked, without importing torch or Lightning."""
