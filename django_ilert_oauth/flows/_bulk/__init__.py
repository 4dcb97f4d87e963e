"""Many accounts in one run. All database work happens in the calling thread."""
