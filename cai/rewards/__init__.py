"""How much a reply is worth: rewards for online training, and for trainers elsewhere."""
