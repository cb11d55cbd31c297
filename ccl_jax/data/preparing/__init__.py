"""What is to be known of media before they are encoded."""
