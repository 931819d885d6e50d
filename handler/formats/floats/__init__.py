"""Small floats with scales: their codes, their scales and the reader that several forms share."""
