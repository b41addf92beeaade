"""A decoder made smaller under a budget: units and forms tried, the cheapest taken, what is left healed."""
