"""The words of reasons: one sentence for a video that is shown, or is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recommender.feed.values import FeedItem, Reason, Words, WordsByFormat
from recommender.formats.plain import day_of
from recommender.ranking.filters import FILTERS, HOST_FILTERS

SHOWN: Mapping[str, str] = {
    "liked": "you liked {subject}",
    "enjoyed": "you enjoyed {subject}",
    "collaborative": "people with your taste enjoyed it",
    "taste": "it is like videos that you enjoyed: {subject}",
    "alike": "it is like {subject}",
    "followed": "{subject} enjoyed it",
    "similarity": "people who enjoyed {subject} enjoyed it too",
    "shared_hashtags": "it has #{subject} too",
    "shared_words": "its caption has the same rare words",
    "same_sound": "it has the same sound",
    "same_creator": "it is by {creator} too",
    "follows": "you follow {subject}",
    "creator": "you enjoy {plural} by {subject}",
    "hashtag": "you like #{subject}",
    "hashtags": "you like its hashtags",
    "sound": "you like the sound {subject}",
    "caption": "its caption is like those you enjoyed",
    "completion": "you {watched} {value:.0%} of it",
    "likes": "you like it",
    "shares": "you shared it",
    "comments": "you commented on it",
    "saves": "you saved it",
    "language": "it is in your language",
    "country": "it is from your country",
    "device": "it fits your device",
    "quality": "{value:.0%} of those who see it {engage}",
    "trending": "it is trending now",
    "freshness": "it is new",
    "exploration": "few have seen it yet",
    "newest": "it is one of the newest",
    "signal": "its {subject} is {value:g}",
    "no_signal": "it is published; no signal speaks for it",
}
"""The kinds of reasons for a video, each with its part of a sentence after "Because".

`subject` is what the reason names and `value` the value of the signal. The others are `Words`.
"""

SAYS_WHEN = ("not_rejected", "not_seen")
"""The filters whose reason is always one of the kinds that say what the viewer did."""

NOT_SHOWN: Mapping[str, str] = {
    **{rule.name: rule.otherwise for rule in FILTERS if rule.name not in SAYS_WHEN},
    **HOST_FILTERS,
    "not_in_future": "it will be published{on}",
    "reported": "you reported it{on}",
    "not_interested": "you said{on} that it does not interest you",
    "converted": "you {converted} it{on}",
    "watched": "you {watched} it{on}",
    "seen": "you saw it{on}",
    "reacted": "you reacted to it{on}",
    "served": "it was on a page for you{on}",
    "blocked_creator": "you blocked its creator {subject}{on}",
    "muted_creator": "you muted its creator {subject}{on}",
    "muted_sound": "you muted its sound {subject}{on}",
    "muted_sound_creator": "you muted {subject}{on}, whose sound it is",
    "muted_hashtag": "you muted its hashtag #{subject}{on}",
    "muted_keyword": "you muted the words {subject}{on}, which its caption has",
    "other_format": "this feed has other formats only",
    "outranked": "other {plural} came before it wherever candidates come from",
}
"""The kinds of reasons why a video is left out, each with its part of a sentence.

They are the filters by name, and kinds that say more: a filter of mutes is named only if the mute
was removed meanwhile. `on` is the date, if it is known.
"""

LABELS: Mapping[str, str] = {
    "creator": "you enjoy {subject}",
    "hashtag": "#{subject}",
    "hashtags": "hashtags that you like",
    "shared_hashtags": "#{subject}",
    "same_creator": "by {creator}",
    "same_sound": "the same sound",
    "taste": "like {subject}",
    "alike": "like {subject}",
    "sound": "the sound {subject}",
    "caption": "a caption like those you enjoyed",
    "language": "in your language",
    "country": "from your country",
    "device": "fits your device",
    "trending": "trending now",
    "freshness": "new",
    "newest": "one of the newest",
}
"""Shorter forms of `SHOWN` for narrow columns."""

VIDEO_WORDS = Words()


def sentence_of(item: FeedItem, reasons: Sequence[Reason], words: WordsByFormat) -> str:
    """Return the sentence of the reasons for a video, such as "Because you follow theo."."""
    *parts, last = (_words_of(reason, SHOWN, item, words) for reason in reasons)
    return f"Because {', '.join(parts)} and {last}." if parts else f"Because {last}."


def absence_of(item: FeedItem, reasons: Sequence[Reason], words: WordsByFormat) -> str:
    """Return the sentence of the reason why a video is left out."""
    (reason,) = reasons
    return f"Not shown: {_words_of(reason, NOT_SHOWN, item, words)}."


def label_of(item: FeedItem, reason: Reason) -> str:
    """Return a reason for a video in a few words, such as "#pottery"."""
    return _words_of(reason, {**SHOWN, **LABELS}, item, {})


def _words_of(
    reason: Reason, texts: Mapping[str, str], item: FeedItem, words: WordsByFormat
) -> str:
    """Return the part of a sentence for a reason: the host's own, else the one of its kind."""
    if reason.text is not None:
        return reason.text
    own = words.get(item.format or "", VIDEO_WORDS)
    signal = item.signals.get(str(reason.subject) if reason.kind == "signal" else reason.kind)
    return texts[reason.kind].format(
        subject=reason.subject,
        creator=item.creator,
        value=signal.value if signal else 0.0,
        on=f" on {day_of(reason.at)}" if reason.at else "",
        plural=own.plural,
        watched=own.watched,
        engage=own.engage,
        converted=own.converted,
    )
