"""Which channels there are in events.py, and who may read them."""

from django_eventstream.channelmanager import DefaultChannelManager

forbidden = set()


class Channels(DefaultChannelManager):
    def get_channels_for_request(self, request, view_kwargs):
        # Sorted, so that the ids of events of several channels have an order.
        return sorted(super().get_channels_for_request(request, view_kwargs))

    def can_read_channel(self, user, channel):
        return not user or (user.id, channel) not in forbidden

    def is_channel_reliable(self, channel):
        return not channel.startswith("unreliable")
