"""The one exception for agents that cannot be used."""


class AgentError(ValueError):
    """An agent that is not there, or not what it should be; the message is one line and names the file."""
