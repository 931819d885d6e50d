"""What an installation of the user's packages is made of: pip's run, the index, the name by which it is found again."""
