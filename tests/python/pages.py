"""Draws the pages for the OCR example: the demo page and seeded test pages, each with its exact text.

It never reads a font from the repository: fonts come from a folder that set-up fills (see FONT_SOURCES).

    pages.py --fonts FOLDER --out FOLDER        test pages: NAME.png (or .jpg) and NAME.json for each
    pages.py --fonts FOLDER --demo FOLDER       the demo page: page.png and page.txt

NAME.json holds {"name", "width", "height", "text", "lines": [{"text", "box": [x, y, width, height]}]}. `text` has one row
of the page per line, top to bottom, and the pieces of a row from left to right with one space between them. Boxes are
those before the page was tilted. The same seed and the same font files give the same pixels with one version of Pillow.
"""

import argparse
import json
import random
import zlib
from pathlib import Path

import numpy
from PIL import Image, ImageDraw, ImageFilter, ImageFont

# Where set-up takes the fonts from: PyPI wheels whose font files have free licences (Bitstream Vera/DejaVu, STIX, SIL OFL).
FONT_SOURCES = ["matplotlib", "font-source-sans-pro", "font-source-serif-pro"]

FONTS = {
    "sans": "DejaVuSans.ttf",
    "sans-bold": "DejaVuSans-Bold.ttf",
    "sans-oblique": "DejaVuSans-Oblique.ttf",
    "serif": "DejaVuSerif.ttf",
    "serif-bold": "DejaVuSerif-Bold.ttf",
    "mono": "DejaVuSansMono.ttf",
    "book": "STIXGeneral.ttf",
    "book-italic": "STIXGeneralItalic.ttf",
    "source": "SourceSansPro-Regular.ttf",
    "source-bold": "SourceSansPro-Semibold.ttf",
    "source-serif": "SourceSerifPro-Regular.ttf",
    "source-serif-bold": "SourceSerifPro-Semibold.ttf",
}

WORDS = (
    "about account address after again against airport among annual answer archive balance between bicycle bottle bridge "
    "budget camera carbon castle centre chapter client climate coffee contract copper cotton council country credit "
    "customer danger deliver deposit design desk detail diesel dinner direct double driver eastern editor effort eight "
    "element engine enough entry estate evening export factory family farmer figure filter finish flight forest formal "
    "freight friday future garden gentle glass global golden ground harbour health height holiday honest hotel impact "
    "invoice island january journal kitchen label ladder language large letter library limit liquid listen little local "
    "lumber machine manual market matter medium member message method mineral minute mobile model monday month mountain "
    "music nature network normal notice number object office open order oxygen packet paper parcel partner pattern "
    "payment pencil people period person picture planet pocket police present printer process product profit project "
    "public quality quarter question quick railway random record region repair report result return river rubber safety "
    "sample school season second sector senior signal silver simple single social source spring square station steel "
    "street strong summer supply system table target tariff theory ticket timber total traffic travel tunnel unit "
    "update urban valley vehicle village volume warehouse water weather weight western window winter wooden yellow zone"
).split()
STREETS = ["Mill Lane", "Harbour Road", "Station Street", "Queen Square", "Oak Avenue", "River Walk", "Castle Hill"]
TOWNS = ["Northfield", "Kingsbridge", "Westport", "Ashford", "Larchmont", "Stonehaven", "Greenville"]
NAMES = ["Anna Keller", "Jonas Weber", "Maria Lopez", "David Okafor", "Helen Brandt", "Peter Novak", "Ruth Lindgren"]
GOODS = [
    "Copper pipe 15 mm", "Oak shelf 80 cm", "LED lamp 9 W", "Paint roller", "Steel bolts M8", "Garden hose 25 m",
    "Desk chair", "Paper A4 (500)", "USB-C cable 2 m", "Wall clock", "Door handle", "Battery AA x8", "Work gloves L",
]


class Page:
    """A page being drawn: pieces of text in rows, remembered with their boxes."""

    def __init__(self, width, height, paper, ink, fonts):
        self.image = Image.new("RGB", (width, height), paper)
        self.draw = ImageDraw.Draw(self.image)
        self.ink = ink
        self.fonts = fonts
        self.rows = []

    def row(self, y, *pieces):
        """Draws one row. A piece is (x, text, font, size) or (x, text, font, size, ink); a negative x is the right edge."""
        placed = []
        for x, text, font, size, *ink in pieces:
            face = self.fonts.face(font, size)
            left, top, right, bottom = self.draw.textbbox((0, 0), text, font=face)
            x = -x - right if x < 0 else x
            self.draw.text((x, y), text, font=face, fill=ink[0] if ink else self.ink)
            placed.append((x, {"text": text, "box": [x + left, y + top, right - left, bottom - top]}))
        self.rows.append([piece for _, piece in sorted(placed, key=lambda entry: entry[0])])

    def text(self):
        """The exact text: rows by line, pieces by space."""
        return "\n".join(" ".join(piece["text"] for piece in row) for row in self.rows) + "\n"

    def lines(self):
        """All pieces in reading order."""
        return [piece for row in self.rows for piece in row]


class Fonts:
    """The font files below a folder, by the names of FONTS."""

    def __init__(self, folder):
        self.files = {path.name: path for path in sorted(Path(folder).rglob("*.ttf"))}
        missing = [name for name in FONTS.values() if name not in self.files]
        if missing:
            raise SystemExit(f"{folder} lacks {', '.join(missing)}; unpack the wheels {', '.join(FONT_SOURCES)} there")

    def face(self, name, size):
        """A face in pixels per em, laid out without shaping libraries, so that every Pillow build draws the same."""
        return ImageFont.truetype(str(self.files[FONTS[name]]), size, layout_engine=ImageFont.Layout.BASIC)


def amount(cents):
    """1234567 → 12,345.67"""
    return f"{cents // 100:,}.{cents % 100:02d}"


def draw_demo(fonts):
    """The invoice that `cargo xtask demo` reads."""
    page = Page(960, 1280, (255, 255, 255), (28, 30, 36), fonts)
    blue, grey, rule = (24, 62, 120), (86, 90, 100), (188, 194, 204)
    draw = page.draw
    draw.rectangle((0, 0, 960, 14), fill=blue)
    page.row(52, (64, "Hearth & Stone Ltd.", "source-serif-bold", 42, blue), (-896, "INVOICE", "source-bold", 42, blue))
    page.row(108, (64, "Fireplaces, stoves and chimney service", "source", 23, grey), (-896, "No. 2026-0417", "source", 23))
    page.row(140, (64, "12 Mill Lane, Northfield NF4 7QD", "source", 23, grey), (-896, "Date: 14 March 2026", "source", 23))
    draw.line((64, 186, 896, 186), fill=rule, width=2)
    page.row(212, (64, "Bill to", "source-bold", 24, blue), (520, "Deliver to", "source-bold", 24, blue))
    page.row(248, (64, "Maria Lopez", "source", 25), (520, "Lopez Holiday Homes", "source", 25))
    page.row(282, (64, "Kingsbridge Bakery", "source", 25), (520, "88 Harbour Road", "source", 25))
    page.row(316, (64, "3 Castle Hill, Westport", "source", 25), (520, "Stonehaven SH1 9PL", "source", 25))
    draw.rectangle((64, 378, 896, 424), fill=blue)
    white = (255, 255, 255)
    page.row(
        386, (80, "Item", "source-bold", 24, white), (-610, "Qty", "source-bold", 24, white),
        (-740, "Price", "source-bold", 24, white), (-880, "Amount", "source-bold", 24, white),
    )
    items = [
        ("Cast iron stove, model K-250", 1, 129900), ("Chimney liner 150 mm, per metre", 9, 4850),
        ("Heat-proof glass 420 x 310", 2, 3725), ("Fire bricks, box of 12", 4, 2890),
        ("Ash vacuum, 18 litres", 1, 8995), ("Installation and safety test", 6, 5200),
    ]
    y, total = 440, 0
    for name, count, cents in items:
        total += count * cents
        page.row(
            y, (80, name, "source", 25), (-610, str(count), "source", 25), (-740, amount(cents), "source", 25),
            (-880, amount(count * cents), "source", 25),
        )
        draw.line((64, y + 42, 896, y + 42), fill=rule, width=1)
        y += 52
    tax = total * 20 // 100
    for label, cents, font in [("Subtotal", total, "source"), ("VAT 20 %", tax, "source"), ("Total GBP", total + tax, "source-bold")]:
        page.row(y + 16, (560, label, font, 26), (-880, amount(cents), font, 26))
        y += 44
    y += 44
    page.row(y, (64, "Thank you for your order.", "source-serif", 29))
    for line in [
        "Please pay within 30 days to account 4471 0926, sort code 20-31-88,",
        "and give the invoice number as the reference. All goods remain our",
        "property until they are paid for. Stoves carry a warranty of 5 years;",
        "keep this page as proof of purchase.",
    ]:
        y += 38
        page.row(y + 10, (64, line, "source-serif", 24))
    y += 66
    page.row(y, (64, "Questions? Call 01632 960 174 or write to help@hearth.example", "source", 23, grey))
    draw.line((64, 1208, 896, 1208), fill=rule, width=2)
    page.row(1224, (64, "Company no. 09914482", "source", 21, grey), (-896, "Page 1 of 1", "source", 21, grey))
    return page


def sentence(random_, length):
    """A sentence of `length` words with a comma now and then and sometimes a number."""
    words = [random_.choice(WORDS) for _ in range(length)]
    if random_.random() < 0.4:
        words[random_.randrange(length)] = str(random_.randrange(2, 9000))
    words[0] = words[0].capitalize()
    if length > 6 and random_.random() < 0.6:
        words[length // 2] += ","
    return " ".join(words) + random_.choice("....?!")


def wrap(page, text, font, size, width):
    """Breaks text into lines no wider than `width` pixels."""
    face, lines = page.fonts.face(font, size), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and page.draw.textlength(longer, font=face) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def letter(page, random_, font, bold, size):
    """An address, a subject, paragraphs, a signature."""
    width, height = page.image.size
    left, step, y = width // 12, int(size * 1.55), height // 16
    sender, receiver = random_.sample(NAMES, 2)
    street = f"{random_.randrange(1, 200)} {random_.choice(STREETS)}"
    for line in [sender, street, f"{random_.choice(TOWNS)} {random_.randrange(10000, 99999)}"]:
        page.row(y, (left, line, font, size))
        y += step
    y += step // 2
    page.row(y, (-(width - left), f"{random_.randrange(1, 29)} {random_.choice(['May', 'June', 'October'])} 20{random_.randrange(10, 40)}", font, size))
    y += 2 * step
    page.row(y, (left, f"Re: {sentence(random_, 5)}", bold, size + 3))
    y += int(1.6 * step)
    page.row(y, (left, f"Dear {receiver},", font, size))
    y += int(1.4 * step)
    while y < height - 6 * step:
        paragraph = " ".join(sentence(random_, random_.randrange(5, 12)) for _ in range(3))
        for line in wrap(page, paragraph, font, size, width - 2 * left):
            if y > height - 5 * step:
                break
            page.row(y, (left, line, font, size))
            y += step
        y += step // 2
    page.row(y, (left, "Yours sincerely,", font, size))
    page.row(y + int(1.4 * step), (left, sender, bold, size))


def table(page, random_, font, bold, size):
    """A heading, a table of goods with numbers, a total."""
    width, height = page.image.size
    left, step, y = width // 14, int(size * 1.9), height // 14
    right = width - left
    page.row(y, (left, f"Order {random_.randrange(10000, 99999)}-{random_.choice('ABCDEFGH')}", bold, size + 10), (-right, f"20{random_.randrange(10, 40)}-0{random_.randrange(1, 10)}-{random_.randrange(10, 29)}", font, size))
    y += int(1.8 * step)
    columns = [left, left + int(0.62 * (right - left)), left + int(0.80 * (right - left)), right]
    page.row(y, (left, "Article", bold, size), (-columns[1], "Pieces", bold, size), (-columns[2], "Each", bold, size), (-right, "Sum", bold, size))
    y += step
    total = 0
    while y < height - 4 * step:
        count, cents = random_.randrange(1, 40), random_.randrange(99, 49999)
        total += count * cents
        page.row(
            y, (left, random_.choice(GOODS), font, size), (-columns[1], str(count), font, size),
            (-columns[2], amount(cents), font, size), (-right, amount(count * cents), font, size),
        )
        y += step
    page.row(y + step // 2, (left, "Total", bold, size + 2), (-right, amount(total), bold, size + 2))
    name = random_.choice(NAMES)
    page.row(y + 2 * step, (left, f"Contact: {name.split()[0].lower()}@{random_.choice(TOWNS).lower()}.example", font, size))


def notice(page, random_, font, bold, size):
    """A heading and short lines of growing size, as on a poster or a slide."""
    width, height = page.image.size
    left, y = width // 10, height // 12
    page.row(y, (left, f"{random_.choice(WORDS).upper()} {random_.choice(WORDS).upper()}", bold, size + 22))
    y += int(2.2 * (size + 22))
    while y < height - 3 * size:
        here = size + random_.randrange(0, 9)
        lines = wrap(page, sentence(random_, random_.randrange(4, 9)), font, here, width - 2 * left)
        for line in lines:
            if y < height - 2 * here:
                page.row(y, (left, line, font, here))
                y += int(1.7 * here)
        y += here // 2


# name, layout, font, bold, size, width, height, paper, ink, degrees, noise (standard deviation), blur (pixels), JPEG quality
TESTS = [
    ("letter-sans", letter, "sans", "sans-bold", 22, 960, 1280, "white", "black", 0.0, 0, 0.0, None),
    ("letter-serif", letter, "serif", "serif-bold", 21, 960, 1280, "#fbf7ec", "#201c18", 0.0, 4, 0.0, None),
    ("letter-book", letter, "book", "book-italic", 26, 1000, 1300, "white", "#111111", 0.0, 0, 0.0, 85),
    ("letter-tilted", letter, "source", "source-bold", 25, 960, 1280, "white", "#222222", 2.0, 0, 0.0, None),
    ("letter-tilted-back", letter, "source-serif", "source-serif-bold", 25, 960, 1200, "#f4f4f4", "#101820", -3.0, 3, 0.0, None),
    ("letter-small", letter, "source", "source-bold", 17, 800, 1000, "white", "black", 0.0, 0, 0.0, None),
    ("letter-large-page", letter, "book", "sans-bold", 40, 1654, 2339, "white", "black", 0.5, 2, 0.0, 80),
    ("table-sans", table, "source", "source-bold", 24, 960, 1100, "white", "black", 0.0, 0, 0.0, None),
    ("table-mono", table, "mono", "sans-bold", 20, 1000, 900, "#eef2f7", "#1a2333", 0.0, 0, 0.0, None),
    ("table-dark", table, "sans", "sans-bold", 21, 1000, 1000, "#15181e", "#e8e8e8", 0.0, 0, 0.0, None),
    ("table-dark-tilted", table, "source", "source-bold", 26, 1000, 1000, "#1d2430", "#f2d9a0", 1.5, 3, 0.0, 85),
    ("table-noisy", table, "serif", "serif-bold", 21, 1000, 1000, "#dedede", "#303030", -1.0, 12, 0.5, 70),
    ("notice-dark", notice, "source-serif", "source-serif-bold", 30, 900, 1100, "#0d3b2e", "#ffffff", 0.0, 0, 0.0, None),
    ("notice-colour", notice, "sans-oblique", "sans-bold", 28, 1100, 800, "#ffd23f", "#7a1022", 3.0, 4, 0.0, 85),
    ("notice-faint", notice, "book-italic", "book", 34, 900, 1000, "#ffffff", "#9a9a9a", 0.0, 2, 0.6, None),
]


def damage(image, name, paper, degrees, noise, blur):
    """Tilts, blurs and adds noise, as a camera or scanner would."""
    if degrees:
        image = image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=paper)
    if blur:
        image = image.filter(ImageFilter.GaussianBlur(blur))
    if noise:
        pixels = numpy.asarray(image, dtype=numpy.float32)
        generator = numpy.random.default_rng(zlib.crc32(name.encode()))
        pixels = pixels + generator.normal(0.0, noise, pixels.shape)
        image = Image.fromarray(numpy.clip(numpy.rint(pixels), 0, 255).astype(numpy.uint8))
    return image


def write_tests(fonts, folder, seed):
    """Writes every test page."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, layout, font, bold, size, width, height, paper, ink, degrees, noise, blur, quality in TESTS:
        page = Page(width, height, paper, ink, fonts)
        layout(page, random.Random(f"{seed}-{name}"), font, bold, size)
        image = damage(page.image, f"{seed}-{name}", paper, degrees, noise, blur)
        if quality:
            image.save(folder / f"{name}.jpg", quality=quality)
        else:
            image.save(folder / f"{name}.png", optimize=True)
        truth = {"name": name, "width": width, "height": height, "text": page.text(), "lines": page.lines()}
        (folder / f"{name}.json").write_text(json.dumps(truth, indent=1, ensure_ascii=False), encoding="utf-8")


def write_demo(fonts, folder):
    """Writes page.png and page.txt."""
    page = draw_demo(fonts)
    folder.mkdir(parents=True, exist_ok=True)
    page.image.save(folder / "page.png", optimize=True)
    (folder / "page.txt").write_text(page.text(), encoding="utf-8")


def main():
    """Parses the arguments and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fonts", required=True, help="folder with the font files, searched with its subfolders")
    parser.add_argument("--out", type=Path, help="folder for the test pages")
    parser.add_argument("--demo", type=Path, help="folder for the demo page")
    parser.add_argument("--seed", type=int, default=1, help="another seed gives other text")
    arguments = parser.parse_args()
    fonts = Fonts(arguments.fonts)
    if arguments.out:
        write_tests(fonts, arguments.out, arguments.seed)
    if arguments.demo:
        write_demo(fonts, arguments.demo)


if __name__ == "__main__":
    main()
