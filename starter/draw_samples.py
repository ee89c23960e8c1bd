"""Draw the sample pictures of clothes: `python starter/draw_samples.py [FOLDER]`.

Each picture is a garment laid out on a floor or a cloth, as in the photos that the starter model
was trained on. Nothing in them comes from those photos, and the model has never seen them.
"""

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

WIDTH, HEIGHT = 400, 533  # pixels; every coordinate below is in this frame
FINE = 2  # drawn at twice the size, then reduced, for smooth edges


def curve(points, *, closed=True, pieces=12):
    """Return the Catmull-Rom curve through `points`; a point given twice is a corner."""
    p = np.array(points, dtype=float)
    p = np.vstack([p[-1:], p, p[:2]]) if closed else np.vstack([p[:1], p, p[-1:]])
    t = np.linspace(0, 1, pieces, endpoint=False)[:, None]
    parts = [
        b
        + t * ((c - a) / 2 + t * (a - 2.5 * b + 2 * c - d / 2 + t * (1.5 * (b - c) + (d - a) / 2)))
        for a, b, c, d in zip(p, p[1:], p[2:], p[3:], strict=False)
        if (b != c).any()
    ]
    return np.vstack([*parts, p[None, 1 if closed else -1]])


def path(text):
    """Return the points of an outline written as "x,y x,y! x,y"; the mark makes a corner."""
    points = []
    for word in text.split():
        x, y = word.rstrip("!").split(",")
        points += [(int(x), int(y))] * (2 if word.endswith("!") else 1)
    return points


def moved(points, right):
    """Return the points, `right` pixels further to the right."""
    return [(x + right, y) for x, y in points]


def mirrored(points):
    """Return the outline whose left half is `points`, from the middle's top to its bottom."""
    return [*points, *((WIDTH - x, y) for x, y in reversed(points))]


def noise(seed, across, down):
    """Return smooth noise in 0..1 with `across` x `down` bumps, at the fine size."""
    coarse = np.random.default_rng(seed).uniform(0, 255, (down + 1, across + 1)).astype("uint8")
    size = (WIDTH * FINE, HEIGHT * FINE)
    return np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)) / 255


def coloured(light, colour):
    """Return the picture of `colour` (red, green, blue) under `light` (height, width)."""
    return Image.fromarray(np.clip(light[..., None] * np.array(colour), 0, 255).astype("uint8"))


def grain(seed):
    """Return the fine irregularity of any real surface: one value a pixel, around 0."""
    speckle = np.random.default_rng(seed).normal(0, 1, (HEIGHT * FINE + 1, WIDTH * FINE + 1))
    return (speckle[1:, 1:] + speckle[:-1, 1:] + speckle[1:, :-1] + speckle[:-1, :-1]) / 2


def boards(colour, seed):
    """Return a floor of wooden boards."""
    rng = np.random.default_rng(seed)
    light = 0.86 + 0.16 * noise(seed, 60, 3) + 0.10 * noise(seed + 1, 5, 4) + 0.02 * grain(seed)
    left = int(rng.integers(-60, 0))
    while left < WIDTH:
        board = slice(max(left, 0) * FINE, (left + 92) * FINE)
        light[:, board] *= rng.uniform(0.92, 1.04)
        light[:, max(left, 0) * FINE : max(left, 0) * FINE + 2] *= 0.72
        end = int(rng.integers(40, HEIGHT - 40)) * FINE
        light[end : end + 2, board] *= 0.75
        left += 92
    return coloured(light, colour)


def cloth(colour, seed):
    """Return a bed sheet or a curtain with soft folds."""
    light = 0.8 + 0.16 * noise(seed, 4, 5) + 0.12 * noise(seed + 1, 9, 6) + 0.015 * grain(seed)
    return coloured(light, colour)


class Drawing:
    """A picture in the making, on `ground`; positions and widths are in the frame's pixels."""

    def __init__(self, ground, seed):
        """Start with the picture `ground`; `seed` shapes folds and texture."""
        self.image, self.seed = ground, seed

    def shape(self, outline):
        """Return the mask of the area inside `outline`."""
        mask = Image.new("L", self.image.size)
        ImageDraw.Draw(mask).polygon([tuple(p) for p in curve(outline) * FINE], fill=255)
        return mask

    def lay(self, outline, colour, *, folds=(6, 9), depth=0.3, shadow=7, pattern=None):
        """Lay down a piece of fabric with its folds, rounded edges and shadow; return its mask.

        `folds` are bumps across and down, `depth` is how strongly they show, `pattern` an extra
        picture that replaces the plain colour.
        """
        self.seed += 10
        mask = self.shape(outline)
        soft = mask.filter(ImageFilter.GaussianBlur(shadow * FINE))
        dark = ImageChops.offset(soft, 3 * FINE, 5 * FINE).point(lambda value: value * 0.55)
        self.image.paste((20, 15, 15), mask=dark)
        # Near an edge the blurred mask falls to one half: that rounds the fabric off.
        inside = np.asarray(mask.filter(ImageFilter.GaussianBlur(5 * FINE))) / 255
        # Light from the upper left: what rises that way is bright, what falls away is dark.
        relief = noise(self.seed, *folds) + 0.4 * noise(self.seed + 1, folds[0] * 2, folds[1] * 2)
        rise = relief - np.roll(relief, (6 * FINE, 4 * FINE), axis=(0, 1))
        light = 0.88 + 1.6 * depth * rise
        light += 0.45 * np.clip(inside - 0.5, 0, 0.4) + 0.02 * grain(self.seed)
        fabric = coloured(light, colour)
        if pattern is not None:
            fabric = coloured(light, (255, 255, 255))
            fabric = ImageChops.multiply(fabric, pattern)
        self.image.paste(fabric, mask=mask)
        return mask

    def seam(self, points, colour=(0, 0, 0), *, width=1.2, strength=0.5, dashed=False, inside=None):
        """Draw a seam, a fold or a cord along the curve through `points`."""
        mask = Image.new("L", self.image.size)
        path = curve(points, closed=False, pieces=16) * FINE
        draw, ink, wide = ImageDraw.Draw(mask), round(255 * strength), round(width * FINE)
        for number, (start, end) in enumerate(pairwise(path)):
            if not (dashed and number % 2):
                draw.line([*start, *end], fill=ink, width=wide)
        mask = mask.filter(ImageFilter.GaussianBlur(0.4 * FINE))
        if inside is not None:
            mask = ImageChops.multiply(mask, inside)
        self.image.paste(colour, mask=mask)

    def disc(self, x, y, radius, colour):
        """Draw a button, an eyelet or a snap."""
        box = [(x - radius) * FINE, (y - radius) * FINE, (x + radius) * FINE, (y + radius) * FINE]
        draw = ImageDraw.Draw(self.image)
        draw.ellipse([b + FINE for b in box], fill=tuple(c // 3 for c in colour))
        draw.ellipse(box, fill=colour)

    def finished(self):
        """Return the picture at its final size."""
        return self.image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def both_sides(points):
    """Return the curve and its mirror image, for details that come in pairs."""
    return points, [(WIDTH - x, y) for x, y in points]


def stripes(colours, height):
    """Return a picture of horizontal stripes, each `height` pixels high."""
    picture = Image.new("RGB", (WIDTH * FINE, HEIGHT * FINE))
    for number, top in enumerate(range(0, HEIGHT, height)):
        box = [0, top * FINE, WIDTH * FINE, (top + height) * FINE]
        picture.paste(colours[number % len(colours)], tuple(box))
    return picture


def dots(ground, colour, step, radius):
    """Return a picture of polka dots."""
    picture = Image.new("RGB", (WIDTH * FINE, HEIGHT * FINE), ground)
    draw = ImageDraw.Draw(picture)
    for row, y in enumerate(range(0, HEIGHT, step)):
        for x in range(step // 2 * (row % 2), WIDTH, step):
            box = [
                (x - radius) * FINE,
                (y - radius) * FINE,
                (x + radius) * FINE,
                (y + radius) * FINE,
            ]
            draw.ellipse(box, fill=colour)
    return picture


def t_shirt():
    """Return a plain T-shirt with a printed sun, on grey boards."""
    drawing = Drawing(boards((186, 180, 176), 1), 11)
    body = mirrored(
        path(
            "200,118 172,108 157,88! 118,102 86,122 30,214! 54,232 82,244! 106,204! 110,290 "
            "104,428! 150,438"
        )
    )
    mask = drawing.lay(body, (44, 112, 148))
    for line in both_sides([(157, 88), (170, 110), (200, 121)]):
        drawing.seam(line, (20, 60, 84), width=5, strength=0.55)
    for line in both_sides([(110, 112), (100, 160), (106, 206)]):
        drawing.seam(line, width=1.5, strength=0.35, inside=mask)
    for line in both_sides([(37, 205), (60, 224), (88, 234)]):
        drawing.seam(line, width=1, strength=0.4, dashed=True, inside=mask)
    drawing.seam([(100, 420), (200, 432), (300, 420)], width=1, strength=0.4, dashed=True)
    sun = [
        (200 + r * np.sin(a), 220 + r * np.cos(a))
        for a, r in zip(np.linspace(0, 2 * np.pi, 24, endpoint=False), [44, 27] * 12, strict=True)
    ]
    drawing.image.paste((240, 190, 70), mask=drawing.shape(sun).point(lambda value: value * 0.9))
    drawing.disc(200, 220, 19, (246, 226, 150))
    return drawing.finished()


def pants():
    """Return a pair of blue jeans, on a red sheet."""
    drawing = Drawing(cloth((186, 38, 48), 2), 21)
    legs = mirrored(
        path(
            "200,60 150,62 136,58! 126,110 112,190 104,330 100,480! 130,486 164,482! "
            "178,350 194,214 200,205"
        )
    )
    mask = drawing.lay(legs, (62, 92, 146), folds=(9, 12), depth=0.4)
    fade = drawing.shape([(132, 190), (156, 180), (160, 300), (142, 400), (126, 330)])
    for side in (fade, fade.transpose(Image.Transpose.FLIP_LEFT_RIGHT)):
        pale = side.filter(ImageFilter.GaussianBlur(12 * FINE)).point(lambda value: value * 0.4)
        drawing.image.paste((150, 176, 214), mask=pale)
    orange = (214, 160, 90)
    drawing.seam([(132, 82), (200, 86), (268, 82)], orange, width=1, dashed=True, inside=mask)
    drawing.seam([(133, 78), (200, 83), (267, 78)], width=1.5, strength=0.5, inside=mask)
    drawing.seam([(200, 62), (200, 206)], width=1.8, strength=0.6, inside=mask)
    drawing.seam([(212, 86), (212, 150), (201, 166)], orange, width=1, dashed=True)
    for line in both_sides([(170, 84), (160, 112), (126, 122)]):
        drawing.seam(line, orange, width=1.2, strength=0.8, dashed=True, inside=mask)
    for line in both_sides([(128, 120), (118, 250), (110, 480)]):
        drawing.seam(line, (160, 180, 210), width=1.2, strength=0.4, inside=mask)
    for line in both_sides([(100, 470), (132, 476), (166, 472)]):
        drawing.seam(line, orange, width=1.2, dashed=True, inside=mask)
    for x in (150, 182, 218, 250):
        drawing.seam([(x, 60), (x, 84)], (40, 62, 104), width=5, strength=0.9, inside=mask)
    drawing.disc(200, 72, 4, (206, 170, 110))
    return drawing.finished()


def dress():
    """Return a sleeveless polka-dot dress with a red belt, on golden boards."""
    drawing = Drawing(boards((214, 172, 112), 3), 31)
    outline = mirrored(
        path(
            "200,104 176,96 170,50! 150,48! 140,100 124,124! 140,180 144,220 120,320 "
            "78,470! 140,490"
        )
    )
    pattern = dots((38, 46, 98), (240, 236, 226), 20, 3.4)
    mask = drawing.lay(outline, (38, 46, 98), folds=(12, 5), depth=0.4, pattern=pattern)
    for x, foot in ((165, 130), (185, 172), (215, 228), (235, 270)):
        drawing.seam(
            [(x, 232), ((x + foot) / 2, 340), (foot, 484)], width=4, strength=0.3, inside=mask
        )
    drawing.lay(
        path("143,212 200,218 257,212 258,230 200,237 142,230"),
        (196, 40, 50),
        shadow=2,
    )
    drawing.lay([(178, 206), (200, 222), (178, 240)], (206, 46, 56), shadow=2)
    drawing.lay([(222, 206), (200, 222), (222, 240)], (206, 46, 56), shadow=2)
    drawing.disc(200, 223, 5, (170, 30, 40))
    return drawing.finished()


def hat():
    """Return a straw hat with a dark ribbon, on a red sheet."""
    drawing = Drawing(cloth((206, 24, 26), 4), 41)
    straw = (216, 190, 140)
    brim = path("40,330 90,280 200,262 310,280 360,330 310,380 200,398 90,380")
    mask = drawing.lay(brim, straw, folds=(14, 20), shadow=10)
    for shrink in (0.93, 0.86, 0.79):
        ring = [(200 + (x - 200) * shrink, 330 + (y - 330) * shrink) for x, y in [*brim, brim[0]]]
        drawing.seam(ring, (120, 90, 50), width=1, strength=0.5, inside=mask)
    crown = path(
        "104,330 108,230 122,158 160,140 200,152 240,140 278,158 292,230 296,330 "
        "250,352 200,358 150,352"
    )
    mask = drawing.lay(crown, straw, folds=(20, 26), shadow=8)
    for y in range(176, 300, 14):
        drawing.seam(
            [(100, y), (200, y + 16), (300, y)], (130, 98, 56), width=1, strength=0.4, inside=mask
        )
    drawing.seam([(172, 152), (200, 196), (228, 152)], width=7, strength=0.25, inside=mask)
    ribbon = path("105,296 200,324 295,296 296,330 250,352 200,358 150,352 104,330")
    drawing.lay(ribbon, (36, 30, 34), shadow=2)
    return drawing.finished()


def shorts():
    """Return striped swimming shorts with a white cord, on grey boards."""
    drawing = Drawing(boards((176, 176, 182), 5), 51)
    outline = mirrored(
        path("200,140 140,138 112,134! 92,220 62,384! 120,400 184,398! 194,320 200,290")
    )
    pattern = stripes([(30, 92, 190), (230, 236, 240), (36, 150, 200)], 30)
    mask = drawing.lay(outline, (40, 100, 200), folds=(9, 6), depth=0.35, pattern=pattern)
    drawing.lay(
        path("112,134! 200,142 288,134! 291,158! 200,168 109,158!"),
        (26, 56, 128),
        folds=(40, 2),
        depth=0.5,
        shadow=2,
    )
    drawing.seam([(200, 168), (200, 292)], width=2, strength=0.55, inside=mask)
    for line in both_sides([(112, 176), (106, 220), (90, 250)]):
        drawing.seam(line, width=1.6, strength=0.5, inside=mask)
    for line in both_sides([(66, 372), (120, 387), (184, 385)]):
        drawing.seam(line, width=1.2, strength=0.5, dashed=True, inside=mask)
    for line in both_sides([(196, 156), (184, 184), (176, 214), (186, 232)]):
        drawing.seam(line, (245, 245, 240), width=3, strength=1)
    return drawing.finished()


def skirt():
    """Return a pleated skirt in pink, on a light floor."""
    drawing = Drawing(boards((150, 124, 96), 6), 61)
    outline = mirrored(path("200,128 150,126 134,124! 112,220 54,404! 110,424 160,430"))
    mask = drawing.lay(outline, (212, 96, 120), folds=(16, 3), depth=0.35)
    for number in range(1, 12):
        top, foot = 134 + 132 * number / 12, 54 + 292 * number / 12
        line = [(top, 150), ((top + foot) / 2 + (foot - 200) * 0.03, 270), (foot, 440)]
        drawing.seam(line, (90, 20, 40), width=3, strength=0.45, inside=mask)
        drawing.seam(
            [(x + 4, y) for x, y in line], (250, 190, 200), width=2, strength=0.4, inside=mask
        )
    drawing.lay(
        path("134,122! 200,128 266,122! 270,150! 200,157 130,150!"),
        (186, 70, 96),
        folds=(20, 2),
        shadow=2,
    )
    return drawing.finished()


def longsleeve():
    """Return a striped jumper with ribbed cuffs, on a magenta sheet."""
    drawing = Drawing(cloth((160, 24, 90), 7), 71)
    body = mirrored(
        path(
            "200,122 172,112 160,94! 124,108 98,132 62,250 34,376! 54,388 76,388! 98,290 "
            "112,226! 114,320 108,438! 150,444"
        )
    )
    navy, white = (38, 46, 84), (226, 224, 218)
    pattern = stripes([white, white, navy], 13)
    mask = drawing.lay(body, white, folds=(7, 10), depth=0.35, pattern=pattern)
    for line in both_sides([(160, 94), (172, 114), (200, 125)]):
        drawing.seam(line, (104, 108, 116), width=8, strength=0.6)
    for line in both_sides([(120, 112), (108, 160), (112, 228)]):
        drawing.seam(line, width=1.6, strength=0.4, inside=mask)
    for x in range(104, 300, 5):
        drawing.seam([(x, 418), (x, 446)], width=1.4, strength=0.35, inside=mask)
    drawing.seam([(104, 417), (200, 424), (296, 417)], width=1.4, strength=0.45, inside=mask)
    for step in range(0, 46, 5):
        for line in both_sides([(36 + step, 360), (32 + step, 392)]):
            drawing.seam(line, width=1.4, strength=0.35, inside=mask)
    for line in both_sides([(38, 358), (60, 368), (82, 366)]):
        drawing.seam(line, width=1.4, strength=0.45, inside=mask)
    return drawing.finished()


def shirt():
    """Return a checked shirt with collar and buttons, on grey boards."""
    drawing = Drawing(boards((190, 186, 184), 8), 81)
    blue, white, red = (70, 90, 150), (226, 224, 226), (170, 60, 70)
    rows = stripes([white, white, blue, white, red, white], 9)
    columns = stripes([white, blue, white, white, white, red], 9).rotate(90).resize(rows.size)
    pattern = ImageChops.multiply(rows, columns)
    body = mirrored(
        path(
            "200,96 170,92 154,84! 122,98 98,122 64,240 38,366! 58,376 80,376! 100,286 "
            "112,224! 114,320 108,430! 150,452"
        )
    )
    mask = drawing.lay(body, white, folds=(7, 10), depth=0.3, pattern=pattern)
    for line in both_sides([(116, 106), (104, 160), (112, 226)]):
        drawing.seam(line, width=1.6, strength=0.5, inside=mask)
    for line in both_sides([(42, 346), (62, 356), (84, 354)]):
        drawing.seam(line, width=1.8, strength=0.5, inside=mask)
    drawing.lay(path("160,80! 200,76 240,80! 200,112"), blue, shadow=2)
    for line in ([(188, 112), (188, 450)], [(212, 112), (212, 450)]):
        drawing.seam(line, width=1.4, strength=0.5, inside=mask)
    for side in both_sides(path("156,78! 200,108! 178,136! 148,92!")):
        drawing.lay(side, white, shadow=3, pattern=pattern)
    drawing.lay(path("238,176! 282,176! 282,220 260,232 238,220"), white, shadow=2, pattern=pattern)
    for y in range(138, 440, 46):
        drawing.disc(200, y, 4, (240, 238, 232))
    return drawing.finished()


def shoes():
    """Return a pair of ballerina shoes seen from above, on brown boards."""
    drawing = Drawing(boards((190, 160, 128), 9), 91)
    for shift in (0, 150):
        sole = moved(
            path(
                "76,250 70,180 104,126 146,124 176,178 174,260 160,340 164,400 134,436 102,428 "
                "86,390 90,330"
            ),
            shift,
        )
        drawing.lay(sole, (34, 32, 40), folds=(8, 8), depth=0.5, shadow=9)
        inner = moved(
            path(
                "92,262 96,226 126,212 156,228 158,268 146,340 150,392 132,418 110,412 100,384 "
                "106,330"
            ),
            shift,
        )
        drawing.lay(inner, (196, 152, 112), folds=(4, 6), shadow=3)
        drawing.seam([*inner, inner[0]], (10, 10, 14), width=3, strength=0.8)
        shine = drawing.shape(moved([(100, 170), (120, 146), (134, 150), (112, 182)], shift))
        pale = shine.filter(ImageFilter.GaussianBlur(6 * FINE)).point(lambda value: value * 0.5)
        drawing.image.paste((220, 220, 230), mask=pale)
        for side in (-1, 1):
            bow = [(126, 204), (126 + side * 22, 190), (126 + side * 20, 216)]
            drawing.lay(moved(bow, shift), (52, 50, 60), shadow=2)
        drawing.disc(126 + shift, 204, 5, (70, 68, 80))
    return drawing.finished()


def outwear():
    """Return a parka with a hood, a zip and four pockets, on golden boards."""
    drawing = Drawing(boards((206, 170, 120), 10), 101)
    dark = (40, 52, 62)
    drawing.lay(path("146,116 142,68 200,40 258,68 254,116 200,134"), dark, folds=(6, 6))
    drawing.lay(
        path("166,108 168,80 200,68 232,80 234,108 200,124"),
        (18, 22, 28),
        shadow=3,
    )
    body = mirrored(
        path(
            "200,128 172,116 150,100! 112,112 80,138 50,262 24,396! 54,410 86,408! 100,316 "
            "108,254! 102,340 92,462! 146,470"
        )
    )
    mask = drawing.lay(body, dark, folds=(8, 14), depth=0.5)
    for line in both_sides([(112, 114), (104, 170), (108, 252)]):
        drawing.seam(line, width=3, strength=0.6, inside=mask)
    drawing.lay(path("186,124! 214,124! 214,470! 186,470!"), dark, shadow=3)
    drawing.seam([(200, 126), (200, 470)], (170, 172, 176), width=4, strength=0.9, inside=mask)
    for line in both_sides([(102, 300), (150, 304), (192, 302)]):
        drawing.seam(line, width=4, strength=0.7, inside=mask)
    for right in (0, 116):
        for outline in (
            "118,340! 166,340! 166,400! 118,400!",  # a large pocket, and its flap
            "115,332! 169,332! 169,354 142,360 115,354",
            "120,190! 164,190! 164,206 142,212 120,206",  # the flap of a small one
        ):
            drawing.lay(moved(path(outline), right), dark, shadow=4)
    for line in both_sides([(32, 376), (60, 386), (90, 382)]):
        drawing.seam(line, width=3, strength=0.6, inside=mask)
    return drawing.finished()


PICTURES = {
    "dress": dress,
    "hat": hat,
    "longsleeve": longsleeve,
    "outwear": outwear,
    "pants": pants,
    "shirt": shirt,
    "shoes": shoes,
    "shorts": shorts,
    "skirt": skirt,
    "t-shirt": t_shirt,
}


def main(folder):
    """Write one JPEG a label into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        draw().save(folder / f"{name}.jpg", quality=78, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "samples")
