"""What a model takes in and gives out, and the arithmetic around it that both sides must share."""
