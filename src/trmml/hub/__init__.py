"""Runs on the Hugging Face Hub: pushed with a card, pulled as data, and looked over both ways."""
