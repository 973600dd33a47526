"""A data set that knows the sizes of its pictures and has none."""


class Pictures:
    """As much of mmdet's datasets as the samplers ask for.

    Args:
        number (int): How many. Every third of them is upright.
    """

    def __init__(self, number=101):
        self.number = number

    def __len__(self):
        return self.number

    def get_data_info(self, index):
        return dict(width=480, height=640) if index % 3 == 0 else dict(width=640, height=480)
