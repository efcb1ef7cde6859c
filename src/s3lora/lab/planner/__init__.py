"""Small agent planners in the ReWOO form: the grammar, an invented world and tasks over it."""
