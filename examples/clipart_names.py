"""What Openclipart's files show, read off their names: `full_moon_dan_gerhards_01` is a full moon."""

from __future__ import annotations

import re

# Files were called title_author, cut to 24 letters, and numbered.
DREW_MOST = """
architetto_francesco_rollandin rollandin_architetto_francesco francesco_rollandin juliane_krug nicu_buculei
benji_park jon_phillips gerald_g. linda_kim jarno_vasamaa jarno_vasama dan_gerhards mateya mimooh peterm zazou
yves_guillou jean-victor_balin jean_victor_balin victor_balin dave_pena enrique_meza_c susan_park
fudriot_omic.ch fabien_omic.ch christoph_brill nathan_eady brice_boyer mauro_olivo aj_ashton a.j._ashton
jonathan_dietrich toh_yen_cheng michael_breuer stefan_bazelkov nurbldoff sergio_luiz_araujo sergio_luiz_ara_jo
guillaume_boitel anthony_liekens leif_lodahl petri_lummemaki daniel_steele_r charles_mccolm lumen_design_studio
costea_bogdan matthew_gates martin_koz george_zaslavsky number_george patricia_fidi glenn_rolland nicolas_gallagher
celso ezechiel hans_deragon bogdan_costea carlos_katastrofsky kilian_valkhof theerud_lawtrakul erich_schubert
andrew_fitzsimon james_birkett gino_rivera roman_bertle jasper_van_de_grond frouke starexte fearzip
israel_caceres dennis_bosch vladimir_hernandez cedric_bosdonnat k_yager joel_montes_de_oca saurabh chris_kemps
federico shandy_brown rollandin_francesco clipart_by_nicu_buculei leigh_purdie ralf_stephan bwh ganson
"""
AUTHORS = DREW_MOST.split()
CUT = 23  # letters of a name that was cut, at least: it may have ended in an underscore
NUMBER = re.compile(r"(_\d\d[a-z]?|_)$")
POLYGON = re.compile(r"_\d+pt\d+step$")  # of a star
WORDS_BEGIN = re.compile(r"(?<=[a-z])(?=[A-Z])|[_\-.+,]+")


def readable_name(stem: str) -> str:
    """The words of a file's name without author and number, in lower case; empty where none are left.

    >>> readable_name("cinepresa_architetto_fra_01"), readable_name("MatieresToxiques"), readable_name("sm_012")
    ('cinepresa', 'matieres toxiques', '')
    """
    title = without_author(NUMBER.sub("", POLYGON.sub("", stem)))
    words = WORDS_BEGIN.sub(" ", title).lower().split()
    while words and not re.search(r"[^\W\d]", words[-1]):  # numbers
        words.pop()
    if words:
        words[-1] = without_number(words[-1])
    name = " ".join(words)
    return name if len(re.findall(r"[^\W\d]", name)) > 2 else ""


def without_author(title: str) -> str:
    cut = len(title) >= CUT
    bare = without_number(title.rstrip("_-"))
    # what was cut to a letter or two says nothing
    for rest in (bare, re.sub(r"_[^_]{1,2}$", "", bare)) if cut else (bare,):
        if lengths := [length for author in AUTHORS if (length := ending(rest.lower(), author, cut=cut))]:
            return rest[: -max(lengths) - 1]
    return rest


def ending(title: str, author: str, *, cut: bool) -> int:
    """How many of the author's letters, from the first, end the title: three at least where it was cut, else half."""
    fewest = min(len(author), 3 if cut else max(5, len(author) // 2))
    lengths = (length for length in range(len(author), fewest - 1, -1) if author[length - 1] not in "_-")
    return next((length for length in lengths if title.endswith(f"_{author[:length]}")), 0)


def without_number(text: str) -> str:
    """``head11`` → ``head``, but ``play_mp3`` stays."""
    return re.sub(r"(?<=[^\W\d]{3})\d+$", "", text)
