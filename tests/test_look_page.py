"""The page in a real browser: every control is used, and the page must change as it should."""

import numpy as np
import pytest
import torch as th
from browser import CHROMIUM, Browser
from small_agents import ENVIRONMENTS, make_model
from stable_baselines3 import DQN
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from test_trained_agents import FOLDER, RELU, ZIPS
from torch import nn

import sb3_spiking.minatar  # noqa: F401  (registers its games)
from sb3_spiking import SpikingPolicy, record
from sb3_spiking.evaluation.agents import load_agent
from sb3_spiking.look.page import _agent, _Blobs, page, write_page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (Debian: apt-get install chromium)")

DECISIONS = 24


def of_repository(folder, env, decisions=DECISIONS):
    agent = load_agent(folder, "dqn", env, device="cpu")
    agent.env_kwargs["render_mode"] = "rgb_array"
    venv = agent.make_env(1, 0, whole_games=True)
    recording = record(agent.model, venv, decisions, epsilon=0.1, agent=agent.name, membranes="all")
    venv.close()
    return recording


def small(kind, **settings):
    make, own = ENVIRONMENTS[kind]
    model = make_model((make, {"num_steps": 4, **own, "input_scale": 4.0, **settings}))
    return record(model, make(), 6, membranes="all")


class Padded(BaseFeaturesExtractor):
    """Convolutions of every geometry."""

    def __init__(self, space):
        super().__init__(space, 2 * 3 * 4)
        one = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        two = nn.Conv2d(4, 2, (3, 2), stride=(4, 3), dilation=2, padding=(2, 1))
        self.layers = nn.Sequential(one, nn.ReLU(), two, nn.ReLU(), nn.Flatten())

    def forward(self, observations):
        return self.layers(observations.permute(0, 3, 1, 2))


def padded():
    kwargs = {"features_extractor_class": Padded, "net_arch": []}
    env = ENVIRONMENTS["grid"][0]
    return record(DQN("MlpPolicy", env(), policy_kwargs=kwargs, seed=0), env(), 6)


PAGES = {
    "padded": lambda: [padded()],
    "side by side": lambda: [of_repository(RELU, "CartPole-v1"), of_repository(FOLDER, "CartPole-v1", DECISIONS - 4)],
    "minatar": lambda: [of_repository(FOLDER, "MinAtar/Breakout-v1")],
    "pong": lambda: [of_repository(FOLDER, "PongNoFrameskip-v4")],
    "relu images": lambda: [of_repository(RELU, "PongNoFrameskip-v4", 6)],
    "dict": lambda: [small("dict")],
    "attached": lambda: [small("image", reset_mechanism="subtract", reset_delay=False, beta=0.9, num_steps=9)],
    "paper": lambda: [small("grid", preset="liu2022", num_steps=16)],
    "delayed": lambda: [small("dict", layer_delay=True, num_steps=7, reset_mechanism="zero", beta=0.6)],
    "membranes out": lambda: [small("vector", readout="max_membrane", encoding="poisson")],
    "normalised": lambda: [small("image", normalization="potential", input_scale=1.0)],
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A function that gives a page by name, and its recordings."""
    folder, made = tmp_path_factory.mktemp("pages"), {}

    def get(name):
        if name not in made:
            made[name] = PAGES[name](), folder / f"{name.replace(' ', '-')}.html"
            write_page(*made[name])
        return made[name]

    return get


@pytest.fixture
def opened(browser, pages):
    """A function that opens a page, stopped at its start; the browser must have nothing to complain of at the end."""

    def open_page(name, **window):
        browser.show(**window)
        browser.open(pages(name)[1])
        browser.ask("player.play(false); player.go(0)")
        browser.settled()
        return browser

    browser.complaints.clear()
    yield open_page
    assert browser.complaints == []


def where(browser):
    return browser.ask("byId('where').value")


def pixels(browser, selector):
    """What a canvas shows."""
    return browser.ask(f"document.querySelector('{selector}').toDataURL()")


@pytest.mark.parametrize("name", PAGES)
def test_opens_from_a_file_and_plays(browser, pages, name):
    browser.complaints.clear()
    browser.show(400)
    browser.open(pages(name)[1])
    browser.until("player.tick > 2")
    assert browser.ask("document.documentElement.scrollWidth <= innerWidth")  # nothing sticks out
    assert browser.ask("byId('play').getAttribute('aria-label')") == "Pause"
    assert browser.ask("document.querySelectorAll('.agent').length") == len(pages(name)[0])
    # No canvas is empty
    browser.ask("player.play(false)")
    browser.settled()
    assert browser.ask("""[...document.querySelectorAll('canvas.neurons, canvas.game')].every((canvas) =>
      canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some((each) => each))""")
    assert browser.complaints == []


@pytest.mark.parametrize("name", PAGES)
def test_membranes_and_spikes_are_those_of_the_recording(opened, pages, name):
    browser = opened(name)
    for number, recording in enumerate(pages(name)[0]):
        for place, layer in enumerate(recording.layers):
            if layer.kind == "activations":
                shown = np.array(browser.ask(_WINDOW % (number, place, "layer.outputs.at(d, 0, n)")))
                highest = layer.activations.max()
                decisions, neurons = _some(recording, layer)
                real = layer.activations.reshape(recording.decisions, -1)[np.ix_(decisions, neurons)]
                np.testing.assert_allclose(shown.reshape(real.shape), real, atol=highest / 60000)
                continue
            shown = np.array(browser.ask(_WINDOW % (number, place, "Array.from(await membranes(layer, n, d))")))
            decisions, neurons = _some(recording, layer)
            real = layer.membranes.reshape(recording.decisions, layer.steps, -1)[decisions][..., neurons].swapaxes(1, 2)
            np.testing.assert_allclose(shown.reshape(real.shape), real, atol=3e-5 * max(1, np.abs(real).max()))
            if layer.kind == "spikes":
                spikes = np.array(
                    browser.ask(
                        _WINDOW % (number, place, "Array.from({length: layer.steps}, (_, t) => layer.outputs.at(d, t, n))")
                    )
                )
                real = layer.spikes.reshape(recording.decisions, layer.steps, -1)[decisions][..., neurons].swapaxes(1, 2)
                np.testing.assert_array_equal(spikes.reshape(real.shape), real)


def test_what_drives_a_neuron_adds_up(opened, pages):
    browser = opened("padded")
    (recording,) = pages("padded")[0]
    for place, layer in enumerate(recording.layers):
        asked = """(async () => { const { given } = await contributions(layer, n, d);
          return given.reduce((one, other) => one + other, (await layer.weights()).bias[%s]); })()"""
        channel = f"Math.floor(n / {np.prod(layer.shape[1:])})"
        shown = np.array(browser.ask(_WINDOW % (0, place, f"await {asked % channel}")))
        decisions, neurons = _some(recording, layer)
        real = layer.activations.reshape(recording.decisions, -1)[np.ix_(decisions, neurons)]
        np.testing.assert_allclose(np.maximum(shown.reshape(real.shape), 0), real, atol=1e-4)


def test_what_is_below_0_everywhere_is_not_drawn(browser, tmp_path):
    model = DQN("MlpPolicy", "CartPole-v1", policy_kwargs={"activation_fn": nn.LogSigmoid, "net_arch": [8]}, seed=0)
    write_page([record(model, "CartPole-v1", 3)], tmp_path / "below.html")
    browser.show()
    browser.open(tmp_path / "below.html")
    browser.settled()
    strengths = (
        "(() => { const layer = player.agents[0].layers[0]; return [0, 3, 7].map((n) => strength(layer, 0, 0, n)); })()"
    )
    assert browser.ask(strengths) == [0, 0, 0]


def test_fields_of_padded_convolutions():
    # Three pixels from the one before on; the second layer's rows and columns differ
    one, two = _agent(padded(), _Blobs())["layers"]
    assert one["field"] == {"size": 3, "jump": 1, "start": -1, "root": 0}
    assert two["field"] is None


# Decisions and neurons from everywhere
_WINDOW = """(async () => {
  const agent = player.agents[%d], layer = agent.layers[%d], found = [];
  for (let d = 0; d < agent.decisions; d += 3) {
    await layer.outputs.have(d);
    for (let n = 0; n < layer.neurons; n += Math.max(1, Math.floor(layer.neurons / 40))) found.push(%s);
  }
  return found;
})()"""


def _some(recording, layer):
    return [*range(0, recording.decisions, 3)], [*range(0, layer.neurons, max(1, layer.neurons // 40))]


def test_time_by_buttons_and_by_keys(opened):
    browser = opened("minatar")
    last = DECISIONS - 1
    assert where(browser) == f"decision 0 of {last}, step 1 of 4"
    moves = [
        ("#step", ".", "decision 0", "step 2"),
        ("#forward", "ArrowRight", "decision 1", "step 1"),
        ("#step-back", ",", "decision 0", "step 4"),
        ("#forward", "ArrowRight", "decision 1", "step 1"),
        ("#forward", "ArrowRight", "decision 2", "step 1"),
        ("#back", "ArrowLeft", "decision 1", "step 1"),
        ("#last", "End", f"decision {last}", "step 4"),
        ("#back", "ArrowLeft", f"decision {last}", "step 1"),
        ("#first", "Home", "decision 0", "step 1"),
    ]
    for by in ("button", "key"):
        for button, key, decision, step in moves:
            before = pixels(browser, "canvas.neurons"), pixels(browser, "#marks")
            browser.click(button) if by == "button" else browser.press(key)
            assert where(browser) == f"{decision} of {last}, {step} of 4", (button, key)
            assert (pixels(browser, "canvas.neurons"), pixels(browser, "#marks")) != before
            assert browser.ask("byId('time').value") == str(browser.ask("player.tick"))
        browser.ask("document.activeElement.blur()")


def test_plays_stops_and_ends(opened):
    browser = opened("minatar")
    for act in (lambda: browser.click("#play"), lambda: browser.press(" ")):
        browser.ask("document.activeElement.blur()")
        act()
        assert browser.ask("player.playing")
        start = browser.ask("player.tick")
        browser.until(f"player.tick > {start}")
        act()
        assert not browser.ask("player.playing")
    browser.ask("byId('speed').value = '30'; player.go((player.decisions - 3) * player.steps)")
    browser.click("#play")
    browser.until("!player.playing")
    browser.settled()
    assert where(browser) == f"decision {DECISIONS - 1} of {DECISIONS - 1}, step 4 of 4"
    browser.click("#play")  # from the start again
    browser.until("player.decision < 10")


def test_speed(opened):
    browser = opened("minatar")
    for key, speed in (("ArrowUp", "10"), ("ArrowUp", "30"), ("ArrowUp", "30"), ("ArrowDown", "10")):
        browser.press(key)
        assert browser.ask("byId('speed').value") == speed
    # 10 decisions a second are 40 steps
    browser.click("#play")
    began = browser.ask("performance.now()")
    browser.until("player.tick >= 20")
    passed = browser.ask("performance.now()") - began
    assert 250 < passed < 3000
    browser.ask("byId('speed').focus()")
    browser.press("ArrowDown")  # belongs to the list there
    assert browser.ask("byId('speed').value") == "30"


def test_the_time_line_is_dragged(opened):
    browser = opened("side by side")
    x, y = browser.place("#time", 0.01)
    browser.mouse("mousePressed", x, y, button="left", clickCount=1)
    for share in (0.2, 0.4, 0.5):
        browser.mouse("mouseMoved", *browser.place("#time", share), button="left")
    browser.mouse("mouseReleased", *browser.place("#time", 0.5), button="left", clickCount=1)
    browser.settled()
    assert browser.ask("player.decision") == pytest.approx(DECISIONS / 2, abs=1)
    # Both agents are there; the shorter one stays at its end
    assert browser.ask("player.agents.map((agent) => agent.now.decision)") == [browser.ask("player.decision")] * 2
    browser.press("End")
    assert browser.ask("player.agents.map((agent) => agent.now.decision)") == [DECISIONS - 1, DECISIONS - 5]


def test_rewards_and_lost_lives_are_marked(browser, tmp_path, pages):
    def colors(recording):
        write_page([recording], tmp_path / "page.html")
        browser.show()
        browser.open(tmp_path / "page.html")
        browser.ask("player.play(false); player.go(0)")
        browser.settled()
        return browser.ask("""(() => {
          const canvas = byId('marks'), {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
          const count = (name) => {
            const [r, g, b] = rgb(name);
            let found = 0;
            for (let i = 0; i < data.length; i += 4) found += data[i] === r && data[i + 1] === g && data[i + 2] === b;
            return found;
          };
          return [count('--good'), count('--bad')];
        })()""")

    recording = of_repository(FOLDER, "MinAtar/Breakout-v1", 4)
    recording.rewards[:] = 0
    assert colors(recording) == [0, 0]
    recording.rewards[2] = 1
    good, bad = colors(recording)
    assert good > 0 == bad
    recording.lives[:] = [3, 3, 2, 2]
    assert colors(recording)[1] > 0
    facts = "document.querySelector('.facts').textContent"
    assert "lives3" in browser.ask(facts)


def test_numbers_are_those_of_the_recording(opened, pages):
    browser = opened("minatar")
    (recording,) = pages("minatar")[0]
    browser.ask("player.go(5 * player.steps)")
    browser.settled()
    values = browser.ask("[...document.querySelectorAll('.value b')].map((each) => +each.textContent)")
    np.testing.assert_allclose(values, recording.q_values[5], rtol=1e-3)
    chosen = browser.ask("[...document.querySelectorAll('.value')].map((each) => each.classList.contains('chosen'))")
    assert chosen.index(True) == recording.actions[5]
    facts = browser.ask("document.querySelector('.facts').textContent")
    assert f"score{recording.rewards[:6].sum():g}" in facts
    assert f"{recording.picojoules[:6].sum() / 1e6:.3g}" in facts.replace("0 µJ", " µJ")
    assert recording.action_names[recording.actions[5]] in facts
    notes = browser.ask("[...document.querySelectorAll('.rate + span')].map((each) => each.textContent)")
    for note, layer in zip(notes, recording.layers, strict=True):
        assert note.startswith(f"{100 * layer.rates()[5]:.1f}%")


def test_energies_have_three_digits_and_a_unit(opened):
    asked = "[0, 0.031, 1, 26.44, 999.7, 1.03e9, 2e15].map(joules).join()"
    assert opened("minatar").ask(asked) == "0.00 pJ,0.0310 pJ,1.00 pJ,26.4 pJ,1.00 nJ,1.03 mJ,2.00e+3 J"


def test_the_neurons_that_speak_for_an_action(opened, pages):
    browser = opened("minatar")
    (recording,) = pages("minatar")[0]
    decision = next(d for d in range(DECISIONS) if recording.layers[-1].spikes[d].any())
    browser.ask(f"player.go({decision} * player.steps)")
    browser.settled()
    best, second = np.argsort(recording.q_values[decision])[::-1][:2]
    weight = recording.readout["weight"]
    shares = (weight[best] - weight[second]) * recording.layers[-1].spikes[decision].mean(axis=0)
    most = int(shares.argmax())
    assert browser.ask("document.querySelector('.why button').textContent").startswith(f"{most}: +{shares[most]:.3g}"[:8])
    browser.click(".why button")
    assert browser.ask("document.querySelector('#inspector h2').textContent") == f"dense 1: neuron {most}"


def test_a_neuron_is_opened_moved_and_closed(opened, pages):
    browser = opened("pong")
    (recording,) = pages("pong")[0]
    browser.ask("player.go(10 * player.steps + 3)")
    # The first map is channel 0, whose middle is a neuron in the middle
    middle = browser.ask(
        "(() => { const p = tiles(player.agents[0].layers[0], document.querySelector('canvas.neurons')"
        ".clientWidth, player.agents[0].layers[0]); return [p.tile / 2, p.tall / 2]; })()"
    )
    size = browser.ask(
        "(() => { const c = document.querySelector('canvas.neurons'); return [c.clientWidth, c.clientHeight]; })()"
    )
    browser.click("canvas.neurons", middle[0] / size[0], middle[1] / size[1])
    browser.until("byId('drivers') && byId('drivers').children.length > 0")
    title = "document.querySelector('#inspector h2').textContent"
    assert browser.ask(title) == "convolution 1: channel 0, row 6, column 6"
    layer = recording.layers[0]
    facts = browser.ask("byId('neuron-facts').textContent")
    assert f"{layer.membranes[10, 3, 0, 6, 6]:.3f}"[:5] in facts
    assert "threshold1.000" in facts
    assert f"{layer.spikes[10, :, 0, 6, 6].sum()} of 4" in facts
    # The membrane in the chart, 32 steps of it
    trace = np.array(browser.ask("inspector.trace.data[1]"))
    first = browser.ask("inspector.trace.first")
    np.testing.assert_allclose(trace, layer.membranes[first : first + 8, :, 0, 6, 6].ravel(), atol=1e-4)
    # Its kernel, and what is there times it
    kernel = np.array(
        browser.ask("contributions(player.agents[0].layers[0], 6 * 13 + 6, 10).then((all) => Array.from(all.weights))")
    )
    np.testing.assert_allclose(kernel, layer.arrays["weight"][0].ravel(), rtol=1e-6)
    given = np.array(browser.ask("contributions(player.agents[0].layers[0], 6 * 13 + 6, 10).then((all) => all.given)"))
    patch = layer.arrays["inputs"][10, 0, :, 18:24, 18:24]  # stride 3, kernel 6
    np.testing.assert_allclose(given, (layer.arrays["weight"][0] * patch).ravel(), rtol=1e-5, atol=1e-7)
    assert pixels(browser, "#kernel") != pixels(browser, "#given")

    browser.click("#neuron-next")
    assert browser.ask(title) == "convolution 1: channel 0, row 6, column 7"
    browser.click("#neuron-before")
    browser.click("#neuron-before")
    assert browser.ask(title) == "convolution 1: channel 0, row 6, column 5"
    before = browser.ask("byId('neuron-facts').textContent"), pixels(browser, "#given")
    browser.press("End")
    browser.until("inspector.trace.data[0].at(-1) === player.tick")
    assert (browser.ask("byId('neuron-facts').textContent"), pixels(browser, "#given")) != before
    browser.click("#neuron-close")
    assert browser.ask("byId('inspector').hidden")


def test_a_raster_is_clicked_and_hovered(opened, pages):
    browser = opened("side by side")
    recording = pages("side by side")[0][1]
    browser.ask("player.go(15 * player.steps + 7)")
    browser.settled()
    # The right edge is now, the top is neuron 0
    selector = ".agent:nth-child(2) canvas.neurons"
    browser.hover(selector, 0.998, 0.503)
    layer = recording.layers[0]
    spike = layer.spikes[15, 7, 128]
    tip = browser.ask("byId('tip').textContent")
    assert tip.startswith("neuron 128\ndecision 15, step 7: ")
    assert f"{'' if spike else 'no '}spike; {layer.spikes[15, :, 128].sum()} of 8 in this decision" in tip
    assert not browser.ask("byId('tip').hidden")
    browser.mouse("mouseMoved", 2, 2)
    browser.settled()
    assert browser.ask("byId('tip').hidden")
    browser.click(selector, 0.5, 0.253)
    assert browser.ask("document.querySelector('#inspector h2').textContent") == "dense 1: neuron 64"
    browser.until("byId('drivers').children.length > 0")
    names = browser.ask("[...document.querySelectorAll('.driver span')].map((each) => each.textContent)")
    assert sorted(names) == [f"input {each}" for each in range(4)]
    browser.press("Escape")
    assert browser.ask("byId('inspector').hidden")
    # A ReLU layer has activations
    browser.hover("canvas.neurons", 0.998, 0.503)
    activation = pages("side by side")[0][0].layers[0].activations[15, 128]
    assert float(browser.ask("byId('tip').textContent").split(": ")[1]) == pytest.approx(activation, abs=1e-3)


def test_a_neuron_by_keyboard(opened):
    browser = opened("pong")
    browser.ask("document.querySelector('canvas.neurons').focus()")
    title = "document.querySelector('#inspector h2')?.textContent"
    start = where(browser)
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft", "ArrowDown", "ArrowUp"):
        browser.press(key)
    assert where(browser) == start  # time stays
    browser.press("Enter")
    assert browser.ask(title) == "convolution 1: channel 0, row 1, column 1"
    browser.press("ArrowRight")
    assert browser.ask(title) == "convolution 1: channel 0, row 1, column 2"
    browser.press("Escape")
    assert browser.ask("byId('inspector').hidden")


def test_focus_is_seen(opened):
    browser = opened("minatar")
    for _ in range(3):
        browser.press("Tab")
    assert browser.ask("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_the_list_of_keys(opened):
    browser = opened("minatar")
    for act in (lambda: browser.click("#keys"), lambda: browser.press("?")):
        act()
        assert browser.ask("byId('help').open")
        browser.click("#help button")
        assert not browser.ask("byId('help').open")


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("name", ["side by side", "pong"])
def test_light_and_dark_at_both_widths(opened, name, width):
    grounds = []
    for dark in (False, True):
        browser = opened(name, width=width, dark=dark)
        assert browser.ask("document.documentElement.scrollWidth <= innerWidth")
        grounds.append(browser.ask("getComputedStyle(document.body).backgroundColor"))
        # Text of at least 11 pixels, and a contrast that can be read
        assert (
            browser.ask(
                "Math.min(...[...document.querySelectorAll('h1, h2, .quiet, button, .value')].map("
                "(each) => parseFloat(getComputedStyle(each).fontSize)))"
            )
            >= 11
        )
        contrast = browser.ask("""(() => {
          const light = (name) => rgb(name).map((each) => each / 255).map((each) =>
            each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4)
            .reduce((sum, each, i) => sum + each * [0.2126, 0.7152, 0.0722][i], 0);
          return ['--text', '--quiet'].map((name) => {
            const both = [light(name), light('--card')].sort();
            return (both[1] + 0.05) / (both[0] + 0.05);
          });
        })()""")
        assert min(contrast) >= 4.5
    assert grounds[0] != grounds[1]
    agents = browser.ask("[...document.querySelectorAll('.agent')].map((each) => each.getBoundingClientRect().top)")
    assert (len(set(agents)) == 1) == (width == 1280 or len(agents) == 1)  # side by side, or below each other


def test_answers_at_once(opened):
    browser = opened("pong")
    times = []
    for decision in (3, 17, 9):
        times.append(
            browser.ask(f"""(async () => {{
          const start = performance.now();
          player.go({decision} * player.steps);
          await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
          return performance.now() - start;
        }})()""")
        )
    assert min(times) < 400


def test_observations_that_are_not_finite_are_on_the_page(browser, tmp_path):
    recording = small("vector")
    recording.layers[0].arrays["inputs"][1] = np.inf
    recording.layers[0].arrays["inputs"][2] = np.nan
    write_page([recording], tmp_path / "page.html")
    browser.complaints.clear()
    browser.open(tmp_path / "page.html")
    browser.until("player.tick > 1")
    assert not browser.complaints


def test_nothing_in_names_is_run(browser, tmp_path):
    recording = small("vector")
    recording.agent = recording.action_names[0] = "</script><img src=x onerror=document.title='run'>"
    write_page([recording], tmp_path / "page.html")
    browser.complaints.clear()
    browser.open(tmp_path / "page.html")
    browser.until("player.tick > 1")
    assert browser.ask("document.title") != "run"
    assert recording.agent in browser.ask("document.querySelector('h1').textContent")
    assert browser.complaints == []


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    recording = small("vector")
    write_page([recording], tmp_path / "page.html")
    before = (tmp_path / "page.html").read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_page([recording, recording], tmp_path / "page.html")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert (tmp_path / "page.html").read_bytes() == before


def test_the_page_is_the_same_every_time():
    assert page([small("dict")]) == page([small("dict")])


@pytest.mark.slow
@pytest.mark.parametrize("path", ZIPS, ids=lambda path: f"{path.parts[-4]}, {path.stem}")
def test_pages_of_300_decisions_are_small(path, tmp_path):
    recording = of_repository(path.parents[2], path.stem.replace("MinAtar-", "MinAtar/"), 300)
    write_page([recording], tmp_path / "page.html")
    # Float32 weights hardly pack: those of the full-size networks are 8.3 MB, of all others at most 1.1
    weights = _Blobs()
    for layer in recording.layers:
        weights.add(layer.arrays["weight"].astype("<f4").tobytes())
    assert (tmp_path / "page.html").stat().st_size - len(weights.tags()) < 2.5e6


@pytest.mark.slow
def test_the_page_of_the_papers_network(tmp_path):
    # With weights by which a tenth of its neurons and more fire
    agent = load_agent(FOLDER, "dqn", "PongNoFrameskip-v4", device="cpu")
    agent.hyperparams["env_wrapper"] = ["stable_baselines3.common.atari_wrappers.AtariWrapper"]
    agent.env_kwargs["render_mode"] = "rgb_array"
    env = agent.make_env(1, 1, whole_games=True)
    model = DQN(SpikingPolicy, env, policy_kwargs={"preset": "liu2022"}, buffer_size=10, seed=0)
    body = model.q_net.features_extractor
    with th.no_grad():
        for layer, scale in zip((*body.conv, *body.dense), (11.0, 18.5, 20.0, 22.0), strict=True):
            layer.connection.weight *= scale
    recording = record(model, env, 300, epsilon=0.3)
    assert recording.decisions == 300
    assert min(layer.rates().mean() for layer in recording.layers) > 0.08
    write_page([recording], tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < 30e6


def test_what_was_asked_for_last_stays_in_memory(opened):
    browser = opened("pong")
    kept = browser.ask(
        """(async () => {
        const blob = player.agents[0].layers[0].outputs.about.blobs[0];
        const chunks = new (class extends Chunks { decoded(buffer) { return buffer; } })(
            { together: 1, blobs: Array(CHUNKS_IN_MEMORY + 1).fill(blob) }, () => {});
        for (let place = 0; place < CHUNKS_IN_MEMORY; place++) await chunks.have(place);
        await chunks.have(0);
        await chunks.have(CHUNKS_IN_MEMORY);
        return [chunks.chunks.has(0), chunks.chunks.has(1), chunks.chunks.size === CHUNKS_IN_MEMORY];
        })()"""
    )
    assert kept == [True, False, True]


def test_whoever_asks_for_weights_gets_all_of_them(opened):
    browser = opened("pong")  # whose currents are normalised
    names = browser.ask(
        """(async () => {
        const layer = player.agents[0].layers[0], asked = [];
        for (let i = 0; i < 200; i++) {
            asked.push(layer.weights().then((loaded) => Object.keys(loaded).sort().join()));
            const { port1, port2 } = new MessageChannel();  // a turn without a timer's wait
            await new Promise((done) => { port1.onmessage = done; port2.postMessage(0); });
        }
        return [...new Set(await Promise.all(asked))];
        })()"""
    )
    assert names == ["bias,scale,shift,statistics,weight"]
