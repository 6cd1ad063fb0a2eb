"""Where the demo's stations stand: inland cities with their centres, and streets that are there. Data only, in WGS 84 degrees."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class City:
    """A city, its centre in degrees, and some of its streets."""

    country: str
    name: str
    zip: str
    latitude: float
    longitude: float
    streets: tuple[str, ...]


_CITIES = """
DE | Berlin | 10115 | 52.5200 | 13.4050 | Chausseestraße, Torstraße, Invalidenstraße, Schönhauser Allee
DE | München | 80331 | 48.1371 | 11.5754 | Sendlinger Straße, Tal, Lindwurmstraße, Rosenheimer Straße
DE | Köln | 50667 | 50.9375 | 6.9603 | Hohe Straße, Aachener Straße, Venloer Straße
DE | Frankfurt am Main | 60311 | 50.1109 | 8.6821 | Zeil, Berger Straße, Hanauer Landstraße
DE | Stuttgart | 70173 | 48.7758 | 9.1829 | Königstraße, Calwer Straße, Hauptstätter Straße
DE | Leipzig | 04109 | 51.3397 | 12.3731 | Nikolaistraße, Karl-Liebknecht-Straße, Eisenbahnstraße
DE | Dresden | 01067 | 51.0504 | 13.7373 | Prager Straße, Wilsdruffer Straße, Königsbrücker Straße
DE | Nürnberg | 90402 | 49.4521 | 11.0767 | Königstraße, Breite Gasse, Fürther Straße
DE | Hannover | 30159 | 52.3759 | 9.7320 | Georgstraße, Lange Laube, Podbielskistraße
DE | Freiburg im Breisgau | 79098 | 47.9990 | 7.8421 | Kaiser-Joseph-Straße, Habsburgerstraße, Schwarzwaldstraße
DE | Kassel | 34117 | 51.3127 | 9.4797 | Wilhelmshöher Allee, Friedrich-Ebert-Straße, Frankfurter Straße
DE | Erfurt | 99084 | 50.9848 | 11.0299 | Anger, Magdeburger Allee, Johannesstraße
DE | Münster | 48143 | 51.9607 | 7.6261 | Prinzipalmarkt, Hammer Straße, Warendorfer Straße
DE | Augsburg | 86150 | 48.3705 | 10.8978 | Maximilianstraße, Bahnhofstraße, Haunstetter Straße
FR | Paris | 75002 | 48.8666 | 2.3522 | Rue Réaumur, Rue de Turbigo, Boulevard de Sébastopol, Rue Montorgueil
FR | Lyon | 69002 | 45.7578 | 4.8320 | Rue de la République, Rue Mercière, Cours Charlemagne
FR | Toulouse | 31000 | 43.6045 | 1.4440 | Rue d'Alsace-Lorraine, Rue de Metz, Allées Jean-Jaurès
FR | Strasbourg | 67000 | 48.5734 | 7.7521 | Rue des Grandes Arcades, Rue du Faubourg National, Avenue des Vosges
FR | Lille | 59000 | 50.6292 | 3.0573 | Rue Nationale, Rue de Béthune, Boulevard de la Liberté
FR | Grenoble | 38000 | 45.1885 | 5.7245 | Cours Jean Jaurès, Rue Félix Poulat, Avenue Alsace-Lorraine
FR | Dijon | 21000 | 47.3220 | 5.0415 | Rue de la Liberté, Rue des Godrans, Rue de Mirande
FR | Rennes | 35000 | 48.1173 | -1.6778 | Rue Le Bastard, Rue Saint-Malo, Boulevard de la Liberté
FR | Clermont-Ferrand | 63000 | 45.7772 | 3.0870 | Rue Blatin, Avenue des États-Unis, Boulevard Trudaine
FR | Reims | 51100 | 49.2583 | 4.0317 | Rue de Vesle, Avenue de Laon, Rue Gambetta
FR | Tours | 37000 | 47.3941 | 0.6848 | Rue Nationale, Avenue de Grammont, Rue Colbert
NL | Utrecht | 3511 | 52.0907 | 5.1214 | Oudegracht, Vredenburg, Biltstraat, Amsterdamsestraatweg
NL | Eindhoven | 5611 | 51.4416 | 5.4697 | Vestdijk, Kruisstraat, Aalsterweg
NL | Tilburg | 5038 | 51.5555 | 5.0913 | Heuvelstraat, Spoorlaan, Korvelseweg
NL | Arnhem | 6811 | 51.9851 | 5.8987 | Jansstraat, Steenstraat, Apeldoornseweg
NL | Apeldoorn | 7311 | 52.2112 | 5.9699 | Hoofdstraat, Deventerstraat, Arnhemseweg
NL | Enschede | 7511 | 52.2215 | 6.8937 | Haverstraatpassage, Oldenzaalsestraat, Haaksbergerstraat
AT | Wien | 1070 | 48.2010 | 16.3480 | Mariahilfer Straße, Neubaugasse, Burggasse, Kaiserstraße
AT | Graz | 8010 | 47.0707 | 15.4395 | Herrengasse, Annenstraße, Sporgasse
AT | Linz | 4020 | 48.3000 | 14.2900 | Landstraße, Wiener Straße, Humboldtstraße
AT | Salzburg | 5020 | 47.8050 | 13.0450 | Linzer Gasse, Franz-Josef-Straße, Alpenstraße
AT | Innsbruck | 6020 | 47.2654 | 11.3928 | Maria-Theresien-Straße, Museumstraße, Innrain
"""


def _city(line: str) -> City:
    country, name, zip_code, latitude, longitude, streets = (part.strip() for part in line.split("|"))
    return City(
        country=country,
        name=name,
        zip=zip_code,
        latitude=float(latitude),
        longitude=float(longitude),
        streets=tuple(streets.split(", ")),
    )


CITIES = tuple(_city(line) for line in _CITIES.strip().splitlines())
