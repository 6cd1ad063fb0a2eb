"""Built-in words: what the statuses, connector types and countries of OCPP, OCPI and common back ends are called in OIOI. Pure.

They are looked up after the operator's own maps (`[source.statuses]`, `[source.connector_types]`), without regard to case, spaces and
punctuation: `IEC_62196_T2`, `IEC62196T2` and `iec-62196-t2` are one word. A word that is not here stays as it is, for the protocol to
judge.

Sources: OCPP 1.6 (ChargePointStatus), OCPP 2.0.1 part 2 (ConnectorEnumType, ConnectorStatusEnumType), OCPI 2.1.1 and 2.2.1 (module
Locations: Status, ConnectorType), ISO 3166-1.
"""

import re
from functools import lru_cache

_PUNCTUATION = re.compile(r"[\W_]+")

# OCPP says Preparing, Finishing and Suspended of a connector that somebody has occupied, OCPI says BLOCKED when a car stands before it.
_STATUSES = {
    "Available": "Available",
    "Occupied": "Occupied Charging Preparing SuspendedEV SuspendedEVSE Finishing Blocked",
    "Reserved": "Reserved",
    "Offline": "Offline Unavailable Faulted Inoperative OutOfOrder Planned Removed",
    "Unknown": "Unknown",
}
# Other domestic sockets, GB/T, ChaoJi and pantographs have no word in OIOI, neither have OCPP's Other…, Pan and w….
_CONNECTOR_TYPES = {
    "Type1": "Type1 IEC_62196_T1 cType1 J1772",
    "Type2": "Type2 IEC_62196_T2 cType2 sType2 Mennekes",
    "Type3": "Type3 IEC_62196_T3C",
    "Combo": "Combo IEC_62196_T1_COMBO IEC_62196_T2_COMBO cCCS1 cCCS2 CCS CCS1 CCS2",
    "Chademo": "Chademo cG105",
    "Schuko": "Schuko DOMESTIC_F sCEE-7-7",
    "CeeBlue": "CeeBlue IEC_60309_2_single_16 s309-1P-16A s309-1P-32A",
    "CeeRed": "CeeRed IEC_60309_2_three_16 IEC_60309_2_three_32 IEC_60309_2_three_64 s309-3P-16A s309-3P-32A",
    "CeePlus": "CeePlus",
    "Cee2Poles": "Cee2Poles",
    "3PinSquare": "3PinSquare DOMESTIC_G sBS1361",
    "Tesla": "Tesla TESLA_R TESLA_S cTesla",
    "Scame": "Scame IEC_62196_T3A sType3",
    "Nema5": "Nema5 DOMESTIC_B NEMA_5_20",
    "T13": "T13 DOMESTIC_J",
    "T15": "T15",
    "T23": "T23",
    "Marechal": "Marechal",
    "TypeE": "TypeE DOMESTIC_E",
}
# ISO 3166-1 alpha-3, each with its alpha-2 code less the first letter where the two begin alike.
_COUNTRIES = """
    ABWW AFGF AGOO AIAI ALAX ALBL ANDD AREE ARGR ARMM ASMS ATAQ ATFTF ATGG AUSU AUTT AZEZ BDII BELE BENJ BESQ BFAF BGDD BGRG BHRH BHSS
    BIHA BLML BLRY BLZZ BMUM BOLO BRAR BRBB BRNN BTNT BVTV BWAW CAFF CANA CCKC CHEH CHLL CHNN CIVI CMRM CODD COGG COKK COLO COMKM CPVV
    CRIR CUBU CUWW CXRX CYMKY CYPY CZEZ DEUE DJIJ DMAM DNKK DOMO DZAZ ECUC EGYG ERIR ESHH ESPS ESTE ETHT FINI FJIJ FLKK FRAR FROO FSMM
    GABA GBRB GEOE GGYG GHAH GIBI GINN GLPP GMBM GNBW GNQQ GRCR GRDD GRLL GTMT GUFF GUMU GUYY HKGK HMDM HNDN HRVR HTIT HUNU IDND IMNM INDN
    IOTO IRLE IRNR IRQQ ISLS ISRL ITAT JAMM JEYE JORO JPNP KAZZ KENE KGZG KHMH KIRI KNAN KORR KWTW LAOA LBNB LBRR LBYY LCAC LIEI LKAK LSOS
    LTUT LUXU LVAV MACO MAFF MARA MCOC MDAD MDGG MDVV MEXX MHLH MKDK MLIL MLTT MMRM MNEE MNGN MNPP MOZZ MRTR MSRS MTQQ MUSU MWIW MYSY
    MYTYT NAMA NCLC NERE NFKF NGAG NICI NIUU NLDL NORO NPLP NRUR NZLZ OMNM PAKK PANA PCNN PERE PHLH PLWW PNGG POLL PRIR PRKKP PRTT PRYY
    PSES PYFF QATA REUE ROUO RUSU RWAW SAUA SDND SENN SGPG SGSGS SHNH SJMJ SLBB SLEL SLVV SMRM SOMO SPMPM SRBRS SSDS STPT SURR SVKK SVNI
    SWEE SWZZ SXMX SYCC SYRY TCAC TCDD TGOG THAH TJKJ TKLK TKMM TLSL TONO TTOT TUNN TURR TUVV TWNW TZAZ UGAG UKRA UMIM URYY USAS UZBZ VATA
    VCTC VENE VGBG VIRI VNMN VUTU WLFF WSMS YEME ZAFA ZMBM ZWEW"""


def _folded(word: str) -> str:
    return _PUNCTUATION.sub("", word).casefold()


def _by_word(words: dict[str, str]) -> dict[str, str]:
    return {_folded(theirs): ours for ours, all_theirs in words.items() for theirs in all_theirs.split()}


_STATUS_OF = _by_word(_STATUSES)
_TYPE_OF = _by_word(_CONNECTOR_TYPES)
_COUNTRY_OF = {code[:3]: code[3:] if len(code) == 5 else code[0] + code[3] for code in _COUNTRIES.split()}


@lru_cache(maxsize=1024)
def status(word: str) -> str | None:
    """The OIOI status that a word of OCPP or OCPI stands for, None if it is none of theirs.

    >>> status("SuspendedEV"), status("OUTOFORDER"), status("available"), status("Charging soon")
    ('Occupied', 'Offline', 'Available', None)
    """
    return _STATUS_OF.get(_folded(word))


@lru_cache(maxsize=1024)
def connector_type(word: str) -> str | None:
    """The OIOI connector type that a word of OCPI or OCPP stands for, None if it is none of theirs.

    >>> connector_type("IEC_62196_T2_COMBO"), connector_type("IEC62196T2"), connector_type("cG105"), connector_type("GBT_DC")
    ('Combo', 'Type2', 'Chademo', None)
    """
    return _TYPE_OF.get(_folded(word))


def country(code: str) -> str | None:
    """The ISO 3166-1 alpha-2 code of an alpha-3 code, which OCPI uses; None if it is none.

    >>> country("FRA"), country("AUT"), country("FR"), country("XXX")
    ('FR', 'AT', None, None)
    """
    return _COUNTRY_OF.get(code)
