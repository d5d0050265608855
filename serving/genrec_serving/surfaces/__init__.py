"""Everything a request meets before the recommender: guard, routes, decoding, admission, errors."""
