"""A database that fails over under running brokers; nothing acknowledged is lost."""
