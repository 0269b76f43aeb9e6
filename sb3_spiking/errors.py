"""The one exception for agents that cannot be used, and the one line that is said of another."""


class AgentError(ValueError):
    """
    An agent that is not there, or not what it should be.

    :param message: names the file; what it quotes of one is shown as one line without control characters, which a terminal
        would obey
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(each if each.isprintable() else "?" for each in " ".join(message.split())))


def one_line(error: BaseException, longest: int = 300) -> str:
    """
    :param error: of another library, perhaps of many lines or of none
    :param longest: characters that are shown
    :return: what it says in one line, or its type where it says nothing
    """
    return (" ".join(str(error).split()) or type(error).__name__)[:longest]
