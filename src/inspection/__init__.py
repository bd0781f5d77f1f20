"""What a network looks at and has learnt."""
