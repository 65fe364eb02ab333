"""TRL's trainers, with our rows, masks and losses."""
