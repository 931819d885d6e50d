"""What developers and CI run beside the product: checks of the image, the scoreboard, measures of the code."""
