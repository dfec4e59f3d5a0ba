"""The engine: plan, data, local training, the round, and the state that goes from round to round."""
