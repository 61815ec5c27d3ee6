"""What ViDA's programs read out of answers: the forms that they know, and what they lose."""

from thinker.eval.bench.vida.extract import Extracted, extract_description, extract_grounding


def ref(text: str, *boxes: tuple[int, int, int, int]) -> str:
    marked = "".join(f"<|box_start|>({a},{b}),({c},{d})<|box_end|>" for a, b, c, d in boxes)
    return f"<|object_ref_start|>{text}<|object_ref_end|>{marked}"


def one(distortion: str, severity: str, *corners: int) -> Extracted:
    return Extracted(distortion=distortion, severity=severity, coordinates=corners)  # type: ignore[arg-type]


def test_grounding_reads_the_first_line_behind_a_class() -> None:
    first = ref("Moderate low clarity", (0, 1, 20, 30), (40, 50, 60, 70))
    lost = ref("Severe low clarity", (1, 1, 2, 2))
    answer = f"Low clarity:\n{first}\n{lost}\nEdge ringing effect: {ref('Minor it', (9, 9, 3, 3))}."
    assert extract_grounding(answer) == (
        one("Low clarity", "Moderate", 0, 1, 20, 30),
        one("Low clarity", "Moderate", 40, 50, 60, 70),
        one("Edge ringing effect", "Slight", 9, 9, 3, 3),
    )
    assert extract_grounding(f"Noise:\n{ref('noise', (1, 2, 3, 4))}")[0].severity == "Unknown"
    assert extract_grounding("No distortion affects this region.") == ()
    assert extract_grounding(ref("Severe noise", (1, 2, 3, 4))) == ()  # without a class


def test_a_description_has_keys_and_a_level_by_its_lines() -> None:
    noise, blur = ref("Severe noise", (1, 2, 3, 4)), ref("Minor motion blur", (5, 6, 7, 8))
    answer = (
        f"A street.\nThere is one {noise} here. There is one {blur} there. Again {noise}.\n"
        f"The key distortion is {noise}. Beside it {blur} counts less.\n"
        "Thus, the quality of the image is Poor."
    )
    found = extract_description(answer)
    assert found.distortions == (
        one("noise", "Severe", 1, 2, 3, 4),
        one("motion blur", "Minor", 5, 6, 7, 8),
    )
    assert found.key == (one("noise", "Severe", 1, 2, 3, 4),) and found.level == "poor"
    late = extract_description(answer + "\n")
    assert late.level == "unknown" and late.key == ()
    assert extract_description("").distortions == ()
