"""Writes invented ward notes with structured summaries, and a small untrained GPT-2 to start from.

A note consists of phrases, in varying order, that express the same facts in different words; its summary lists these
facts. The data describe no real person: every name, number and finding is drawn at random. Only the tokenizer is
trained, on the notes; the weights of the model are random.

    python make_data.py --workspace DIR
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

SEED = 17
ROWS = 900
HELD_OUT = 100

COMPLAINTS = {
    "chest pain": ["pressure behind the breastbone", "pain in the chest on exertion", "a tight feeling in the chest"],
    "dyspnoea": ["getting out of breath on the stairs", "shortness of breath at night", "trouble breathing when flat"],
    "fever": ["feeling hot and shivering since {day}", "temperatures above 38.5 since {day}", "chills and sweats"],
    "abdominal pain": ["cramps around the navel", "a dull ache in the right upper belly", "bellyache after meals"],
    "headache": ["a throbbing head", "pain behind the left eye", "the worst headache of {possessive} life"],
    "syncope": ["passing out in the {room}", "a collapse on {day}", "fainting while standing"],
    "cough": ["coughing up yellow sputum", "a dry cough for two weeks", "coughing at night"],
    "back pain": ["pain low in the back that shoots into the leg", "a stiff back in the morning", "lumbago"],
}
HISTORIES = {
    "hypertension": ["known high blood pressure", "on treatment for raised blood pressure"],
    "type 2 diabetes": ["diabetic for {years} years", "sugar has been high for {years} years"],
    "atrial fibrillation": ["irregular heartbeat, anticoagulated", "known AF"],
    "asthma": ["uses an inhaler since childhood", "asthmatic"],
    "none": ["no earlier illness", "previously well", "nothing of note in the past"],
}
FINDINGS = {
    "crackles": ["fine crackles at both bases", "wet sounds over the lower lungs"],
    "murmur": ["a systolic murmur over the apex", "a blowing heart sound"],
    "tenderness": ["the belly is tender on the right", "guarding on palpation"],
    "oedema": ["both ankles are swollen", "pitting of the shins"],
    "normal": ["examination is unremarkable", "nothing abnormal was found", "clinically fine"],
}
PLANS = {
    "antibiotics": ["start amoxicillin {dose} mg three times a day", "give ceftriaxone from today"],
    "diuretics": ["furosemide {dose} mg in the morning", "increase the water tablets"],
    "imaging": ["CT tomorrow", "book an ultrasound", "chest film this afternoon"],
    "observation": ["keep overnight and repeat bloods", "watch and wait", "stay on the ward until {day}"],
    "discharge": ["may go home", "home today, see the family doctor on {day}"],
}
SLOTS = {
    "day": ["Monday", "Tuesday", "Thursday", "Saturday", "Sunday"],
    "room": ["kitchen", "bathroom", "garden"],
    "years": ["three", "eight", "twelve"],
    "dose": ["20", "40", "500", "750"],
}
ASIDES = [
    "Slept well.",
    "Family visited.",
    "Ate half of the lunch.",
    "Asked about parking.",
    "Hearing aid is being mended.",
]


def phrase(meanings: dict[str, list[str]], meaning: str, woman: bool, chance: random.Random) -> str:
    """Return one of the phrases for a meaning."""
    slots = {slot: chance.choice(words) for slot, words in SLOTS.items()}
    return chance.choice(meanings[meaning]).format(**slots, possessive="her" if woman else "his")


def row(chance: random.Random) -> dict[str, str]:
    """Return a note and its summary."""
    woman, age, pulse = chance.random() < 0.5, chance.randint(19, 94), chance.randint(52, 134)
    complaint, history = chance.choice(list(COMPLAINTS)), chance.choice(list(HISTORIES))
    finding, plan = chance.choice(list(FINDINGS)), chance.choice(list(PLANS))
    person = chance.choice(["woman", "lady", "female"] if woman else ["man", "gentleman", "male"])
    parts = [
        f"{phrase(HISTORIES, history, woman, chance)}.",
        f"{phrase(FINDINGS, finding, woman, chance)}.",
        chance.choice([f"Pulse {pulse}.", f"HR {pulse}/min.", f"Heart rate of {pulse}."]),
        *chance.sample(ASIDES, chance.choice([0, 1, 1, 2])),
    ]
    chance.shuffle(parts)
    opening = chance.choice(
        ["{age} year old {person} with", "{person}, {age}, comes because of", "Admitted: {person} of {age},"]
    )
    note = [opening.format(age=age, person=person).capitalize(), f"{phrase(COMPLAINTS, complaint, woman, chance)}."]
    note += [part[0].upper() + part[1:] for part in parts]
    note += [f"Plan: {phrase(PLANS, plan, woman, chance)}."]
    rate = "tachycardia" if pulse > 100 else "bradycardia" if pulse < 60 else "regular"
    summary = (
        f"sex: {'female' if woman else 'male'}; age: {age}; complaint: {complaint}; history: {history}; "
        f"pulse: {pulse}, {rate}; finding: {finding}; plan: {plan}"
    )
    return {"note": f"Note: {' '.join(note)}\nSummary: ", "summary": summary}


def write_model(folder: Path, texts: list[str]) -> None:
    """Save a GPT-2 of four layers with random weights, and a byte-level tokenizer of 600 tokens."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    bytes_to_pairs = Tokenizer(models.BPE())
    bytes_to_pairs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_to_pairs.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["<end>"], initial_alphabet=sorted(alphabet))
    bytes_to_pairs.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(tokenizer_object=bytes_to_pairs, eos_token="<end>").save_pretrained(folder)
    torch.manual_seed(SEED)
    config = GPT2Config(
        vocab_size=600, n_positions=256, n_embd=128, n_layer=4, n_head=4, bos_token_id=0, eos_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, required=True, metavar="DIR")
    workspace: Path = parser.parse_args().workspace

    chance = random.Random(SEED)
    rows = [row(chance) for _ in range(ROWS + HELD_OUT)]
    folder = workspace / "clinical-notes"
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", rows[HELD_OUT:]), ("held-out", rows[:HELD_OUT])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    write_model(workspace / "models" / "small-gpt2", [row["note"] + row["summary"] for row in rows[HELD_OUT:]])


if __name__ == "__main__":
    main()
