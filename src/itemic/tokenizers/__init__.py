"""What turns vectors into codes; one file each. How items with equal codes are told apart; what codes are worth."""
