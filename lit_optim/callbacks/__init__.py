"""What Lightning calls while it trains: one callback per file."""
