"""The report of a run between two domains: verdicts, distances between sets, errors, a picture."""

from hagan3d.evaluation.metrics.power import Difference
from hagan3d.evaluation.report.page import note, page, picture, table, verdict_list
from hagan3d.evaluation.report.verdict import Verdict
from hagan3d.evaluation.translation.domains import NAMES, DomainEvaluation


def domain_verdicts(results: DomainEvaluation) -> list[Verdict]:
    """Return a verdict per direction: whether translations are closer to the other domain than untouched volumes."""
    found, least = [], min(results.subjects.values())
    for direction, result in results.directions.items():
        domain, other = NAMES[direction]
        after, before = result.translated["kid"], result.untranslated["kid"]
        # which of the two is worse, each against the other as its floor
        gain, loss = (Difference("KID", "", "lower", 0.0, *pair, least) for pair in ((before, after), (after, before)))
        text = f"{domain} to {other}: KID {after.value:.3g} to held-out volumes, {before.value:.3g} untranslated"
        text += f", {result.floor['kid'].value:.3g} of training volumes"
        if gain.state == "bad":
            found.append(Verdict("good", text))
        elif loss.state == "bad" or loss.excess >= 0:
            found.append(Verdict("bad", f"{text}: not closer than untranslated volumes"))
        else:
            found.append(Verdict("unclear", f"{text}: cannot tell, the difference is within its error"))
    return found


def domain_report(results: DomainEvaluation) -> str:
    """Return the report as HTML."""
    header = ["direction", "compared with the other domain", "FID", "KID", "MMD"]
    rows = []
    for direction, result in results.directions.items():
        name = " to ".join(NAMES[direction])
        for what, found in (
            ("translations", result.translated),
            ("untranslated", result.untranslated),
            ("its training volumes", result.floor),
        ):
            rows.append([name, what, *(str(found[key]) for key in ("fid", "kid", "mmd"))])
    errors = [
        [" to ".join(NAMES[direction]), what, *(str(found[key]) for key in ("psnr_db", "ssim", "mae_percent"))]
        for direction, result in results.directions.items()
        for what, found in (
            ("there and back", result.cycle),
            (f"{result.pairs} pairs of one subject", result.paired),
            ("the same pairs, untranslated", result.paired_untranslated),
        )
        if found
    ]
    held = ", ".join(f"{count} of the {domain} domain" for domain, count in results.volumes.items())
    return page(
        [
            f"<h1>Translation between two domains, step {results.origin['step']}</h1>",
            note(f"{results.origin['run']}; held-out volumes of {results.origin['store']['path']}: {held}."),
            f"{verdict_list(domain_verdicts(results))}<h2>Distances between sets</h2>" + table(header, rows),
            note(
                f"In features {results.extractor}; +-: standard error. Training volumes: what perfect ones would give."
            ),
            "<h2>Errors in the mask</h2>" + table(["direction", "of", "PSNR, dB", "SSIM", "MAE, %"], errors)
            if errors
            else "",
            "<h2>Volumes</h2>" + picture(results.sheet, "volumes of both domains and their translations"),
        ]
    )
