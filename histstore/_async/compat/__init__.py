"""What differs between the two shells; written by hand in both."""
