"""Which labels are known, and which masks hide them."""
