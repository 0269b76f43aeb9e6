"""Sharing on the Hub, with the real client and a server on the loopback."""

import json
from pathlib import Path

import hostile
import huggingface_hub
import numpy as np
import pytest
import yaml
from hub_server import HubServer
from huggingface_hub import ModelCard
from processes import finished, python
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

import sb3_spiking
from sb3_spiking import AgentError
from sb3_spiking.evaluation.agents import Agent
from sb3_spiking.hub import _snippet

REPOSITORY = "org/dqn-CartPole-v1"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub, and a cache of its own."""
    server = HubServer()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between tries
    yield server
    server.close()


@pytest.fixture(scope="module")
def agent():
    kwargs = {"net_arch": [16], "num_steps": 4}
    settings = {"learning_starts": 50, "buffer_size": 1000, "train_freq": 8}
    return DQN("SpikingPolicy", make_vec_env("CartPole-v1", seed=0), policy_kwargs=kwargs, **settings, seed=0).learn(300)


def push(agent, **kwargs):
    settings = {"n_eval_episodes": 2, "video_length": 0, **kwargs}
    return sb3_spiking.push_to_hub(agent, REPOSITORY, "CartPole-v1", **settings)


def score(model):
    return evaluate_policy(model, make_vec_env("CartPole-v1", seed=5), n_eval_episodes=3)[0]


def test_pushed_and_loaded_elsewhere(hub, agent):
    assert push(agent) == f"{hub.url}/{REPOSITORY}"
    files = hub.repositories[REPOSITORY][-1]
    assert set(files) == {
        ".gitattributes",
        *("dqn-CartPole-v1.zip", "config.json", "model.safetensors", "optimizer.safetensors", "results.json", "README.md"),
        *("config.yml", "args.yml", "env_kwargs.yml", "train_eval_metrics.zip"),
    }
    model = sb3_spiking.load_from_hub(REPOSITORY)
    assert model.policy.settings == agent.policy.settings
    assert score(model) == score(agent)
    assert not any(request.endswith(".zip") for request in hub.requests)
    assert not any("optimizer" in request for request in hub.requests)
    results = json.loads(files["results.json"])
    card = ModelCard(files["README.md"].decode())
    assert card.data.library_name == "stable-baselines3"
    assert {"CartPole-v1", "spiking-neural-network", "reinforcement-learning"} <= set(card.data.tags)
    assert card.data.eval_results[0].metric_value == f"{results['mean_reward']:.2f} +/- {results['std_reward']:.2f}"
    assert f"{results['evaluation']['nanojoules']:.1f} nJ" in card.text
    settings = yaml.safe_load(card.text.split("```yaml")[1].split("```")[0])
    assert sb3_spiking.SpikingSettings.resolve(**settings) == agent.policy.settings


def test_the_usage_in_the_card_works_when_pasted(hub, agent, tmp_path):
    push(agent)
    snippet = hub.repositories[REPOSITORY][-1]["README.md"].decode().split("```python")[1].split("```")[0]
    result = python("-c", snippet, folder=tmp_path, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "home"))
    assert result.returncode == 0, result.stderr
    mean, _ = eval(result.stdout.strip().splitlines()[-1], {"np": np})
    assert mean >= 5


def test_goes_on_learning(hub, agent):
    push(agent)
    model = sb3_spiking.load_from_hub(REPOSITORY, env=make_vec_env("CartPole-v1"), learning_starts=10)
    assert model.num_timesteps == agent.num_timesteps
    assert (model.train_freq.frequency, model.learning_starts) == (8, 10)
    state = model.policy.optimizer.state_dict()["state"]
    expected = agent.policy.optimizer.state_dict()["state"]
    assert all((state[number]["exp_avg"] == expected[number]["exp_avg"]).all() for number in expected)
    model.learn(100, reset_num_timesteps=False)
    assert model.num_timesteps >= agent.num_timesteps + 100


def test_what_rl_zoo_pushed(hub, agent, tmp_path):
    agent.save(tmp_path / "dqn-CartPole-v1.zip")
    hub.repositories[REPOSITORY] = [{"dqn-CartPole-v1.zip": (tmp_path / "dqn-CartPole-v1.zip").read_bytes()}]
    assert score(sb3_spiking.load_from_hub(REPOSITORY)) == score(agent)
    assert score(sb3_spiking.load_from_hub(REPOSITORY, filename="dqn-CartPole-v1.zip")) == score(agent)
    with pytest.raises(AgentError, match=r"there is no other\.zip in it"):
        sb3_spiking.load_from_hub(REPOSITORY, filename="other.zip")


def test_what_huggingface_sb3_packaged(hub, agent, tmp_path):
    agent.save(tmp_path / "dqn-CartPole-v1.zip")
    content = (tmp_path / "dqn-CartPole-v1.zip").read_bytes()
    hub.repositories[REPOSITORY] = [{"dqn-CartPole-v1.zip": content, "config.json": b'{"policy_class": {":type:": "abc"}}'}]
    assert score(sb3_spiking.load_from_hub(REPOSITORY)) == score(agent)


def test_a_config_too_large_is_not_read(hub, agent, monkeypatch):
    push(agent)
    size = len(hub.repositories[REPOSITORY][-1]["config.json"])
    monkeypatch.setattr("sb3_spiking.sharing.archive.MAX_JSON", size)
    assert score(sb3_spiking.load_from_hub(REPOSITORY)) == score(agent)
    monkeypatch.setattr("sb3_spiking.sharing.archive.MAX_JSON", size - 1)
    with pytest.raises(AgentError, match=f"{REPOSITORY}: config.json: {size} bytes of JSON, expected at most {size - 1}"):
        sb3_spiking.load_from_hub(REPOSITORY)


def test_the_usage_in_the_card_makes_the_environment_of_the_training():
    wrapper = "stable_baselines3.common.atari_wrappers.AtariWrapper"
    for wrappers, size in (([wrapper], 84), ([{wrapper: {"screen_size": 42}}], 42)):
        hyperparams = {"env_wrapper": wrappers, "frame_stack": 4}
        player = Agent("", "dqn", "PongNoFrameskip-v4", None, Path(), hyperparams, "", {"full_action_space": True})
        lines = [line for line in _snippet(player, REPOSITORY).splitlines() if "load_from_hub" not in line]
        made = {}
        exec("\n".join(lines[:-1]), made)
        assert made["env"].observation_space.shape == (size, size, 4)
        assert made["env"].action_space.n == 18
        made["env"].close()


def test_wrappers_around_all_environments_are_part_of_the_evaluation(hub, agent):
    with pytest.raises(ValueError, match="n_eval_episodes=0: expected at least 1"):
        sb3_spiking.push_to_hub(agent, REPOSITORY, "CartPole-v1", n_eval_episodes=0)
    stacked = DQN(
        "SpikingPolicy", VecFrameStack(make_vec_env("CartPole-v1"), 2), policy_kwargs={"net_arch": [4]}, buffer_size=10
    )
    wrapper = [{"stable_baselines3.common.vec_env.VecFrameStack": {"n_stack": 2}}]
    sb3_spiking.push_to_hub(
        stacked, REPOSITORY, "CartPole-v1", hyperparams={"vec_env_wrapper": wrapper}, video_length=0, n_eval_episodes=1
    )
    player = Agent("", "dqn", "CartPole-v1", None, Path(), {"vec_env_wrapper": wrapper}, "", {})
    lines = [line for line in _snippet(player, REPOSITORY).splitlines() if "load_from_hub" not in line]
    made = {}
    exec("\n".join(lines[:-1]), made)
    assert made["env"].observation_space.shape == (8,)


def test_what_the_agent_before_had_does_not_stay(hub, agent):
    push(agent)
    assert "optimizer.safetensors" in hub.repositories[REPOSITORY][-1]
    hub.repositories[REPOSITORY][-1]["notes.txt"] = b"mine"
    push(DQN("SpikingPolicy", "CartPole-v1", policy_kwargs={"net_arch": [5]}))
    assert "optimizer.safetensors" not in hub.repositories[REPOSITORY][-1]
    assert hub.repositories[REPOSITORY][-1]["notes.txt"] == b"mine"
    loaded = sb3_spiking.load_from_hub(REPOSITORY, env=make_vec_env("CartPole-v1"))
    assert not loaded.policy.optimizer.state_dict()["state"]


def test_an_optimizer_that_cannot_be_had_is_said(hub, agent):
    push(agent)
    sb3_spiking.load_from_hub(REPOSITORY)
    hub.failing.add("optimizer.safetensors")
    with pytest.warns(UserWarning, match="optimizer.safetensors cannot be had, taking none"):
        loaded = sb3_spiking.load_from_hub(REPOSITORY, env=make_vec_env("CartPole-v1"))
    assert not loaded.policy.optimizer.state_dict()["state"]


def test_revisions(hub, agent):
    push(agent)
    other = DQN("SpikingPolicy", "CartPole-v1", policy_kwargs={"net_arch": [8], "num_steps": 2}, buffer_size=1)
    push(other)
    assert sb3_spiking.load_from_hub(REPOSITORY).policy.settings.num_steps == 2
    first = hub.sha(REPOSITORY, 1)
    assert sb3_spiking.load_from_hub(REPOSITORY, revision=first).policy.settings.num_steps == 4
    with pytest.raises(AgentError, match="there is no revision 'v9'"):
        sb3_spiking.load_from_hub(REPOSITORY, revision="v9")


def test_private(hub, agent, tmp_path):
    push(agent, private=True)
    assert hub.private == {REPOSITORY}
    assert score(sb3_spiking.load_from_hub(REPOSITORY, token="secret")) == score(agent)
    with pytest.raises(AgentError, match="no such repository, or a private one that needs a token"):
        sb3_spiking.load_from_hub(REPOSITORY, token=False, cache_dir=tmp_path / "other")


def test_the_cache_serves_without_a_network(hub, agent):
    push(agent)
    sb3_spiking.load_from_hub(REPOSITORY)
    hub.close()
    huggingface_hub.close_session()  # with the connection that is still open
    assert score(sb3_spiking.load_from_hub(REPOSITORY)) == score(agent)
    assert score(sb3_spiking.load_from_hub(REPOSITORY, local_files_only=True)) == score(agent)
    with pytest.raises(AgentError, match="it is not in the cache, and the Hub cannot be reached"):
        sb3_spiking.load_from_hub("org/dqn-Other-v1")


def test_no_network_takes_one_line(hub, tmp_path, caplog):
    hub.close()
    huggingface_hub.close_session()
    with caplog.at_level("WARNING"), pytest.raises(AgentError, match=r"cannot be reached or answers with errors: .*refused"):
        sb3_spiking.load_from_hub("org/dqn-Other-v1")
    assert len(caplog.records) == 1


def test_a_repository_that_answers_with_errors(hub, agent, tmp_path):
    """What the Hub does not say is not there is not replaced by another file, unless by one that was asked for before."""
    push(agent)
    hub.failing = {"config.json"}
    with pytest.raises(AgentError, match=r"answers with errors: .*500"):
        sb3_spiking.load_from_hub(REPOSITORY)
    assert not any("zip" in request for request in hub.requests)
    sb3_spiking.load_from_hub(REPOSITORY, filename="dqn-CartPole-v1.zip")
    with pytest.warns(UserWarning, match=r"taking dqn-CartPole-v1\.zip from the cache, config\.json cannot be had: .*500"):
        model = sb3_spiking.load_from_hub(REPOSITORY)
    assert score(model) == score(agent)


def test_normalised_agents_are_not_pushed(hub, agent):
    for normalize in (True, "{'norm_obs': True}"):
        with pytest.raises(ValueError, match="CartPole-v1: the agent was trained with VecNormalize"):
            push(agent, hyperparams={"normalize": normalize})
    normalised = DQN("SpikingPolicy", VecNormalize(make_vec_env("CartPole-v1")), policy_kwargs={"net_arch": [4]})
    with pytest.raises(ValueError, match="CartPole-v1: the agent was trained with VecNormalize"):
        push(normalised)
    with pytest.raises(AgentError, match="--env Nope-v1: there is no such environment"):
        sb3_spiking.push_to_hub(agent, REPOSITORY, "Nope-v1")
    assert not hub.requests
    push(agent, hyperparams={"normalize": False})
    assert "normalize: false" in hub.repositories[REPOSITORY][-1]["config.yml"].decode()


def test_missing_and_damaged(hub, agent):
    with pytest.raises(AgentError, match="no such repository"):
        sb3_spiking.load_from_hub("org/dqn-Nothing-v1")
    with pytest.raises(AgentError, match="that names no repository, expected 'organization/name'"):
        sb3_spiking.load_from_hub("a/b/c")
    hub.repositories["org/text"] = [{"README.md": b"no agent"}]
    with pytest.raises(AgentError, match=r"no agent, there is no text\.zip in it"):
        sb3_spiking.load_from_hub("org/text")
    push(agent)
    files = hub.repositories[REPOSITORY][-1]
    hub.repositories["org/half"] = [{**files, "model.safetensors": files["model.safetensors"][:100]}]
    with pytest.raises(AgentError, match="damaged safetensors"):
        sb3_spiking.load_from_hub("org/half")
    hub.repositories["org/without"] = [{"config.json": files["config.json"]}]
    with pytest.raises(AgentError, match=r"no agent, there is no model\.safetensors"):
        sb3_spiking.load_from_hub("org/without")


def test_hostile_files(hub, agent, tmp_path):
    agent.save(tmp_path / "agent.zip")
    sb3_spiking.save(agent, tmp_path / "folder")
    Path(hostile.MARKER).unlink(missing_ok=True)
    for number, (_, path) in enumerate(hostile.zips(tmp_path / "agent.zip", tmp_path / "zips", hostile.HOSTILE)):
        hub.repositories[f"org/zip{number}"] = [{f"zip{number}.zip": path.read_bytes()}]
        with pytest.raises(AgentError):
            sb3_spiking.load_from_hub(f"org/zip{number}")
    for number, (_, path) in enumerate(hostile.folders(tmp_path / "folder", tmp_path)):
        if any(file.stat().st_size > 2**30 for file in path.iterdir()):  # no server has it in memory
            continue
        hub.repositories[f"org/folder{number}"] = [{file.name: file.read_bytes() for file in path.iterdir()}]
        with pytest.raises(AgentError):  # with an environment, so that the optimizer is read too
            sb3_spiking.load_from_hub(f"org/folder{number}", make_vec_env("CartPole-v1"))
    assert not Path(hostile.MARKER).exists()


def test_a_connection_that_is_cut(hub, agent):
    push(agent)
    hub.cut = 20
    with pytest.raises(AgentError, match="the Hub did not answer as it should"):
        sb3_spiking.load_from_hub(REPOSITORY)
    hub.cut = None
    assert score(sb3_spiking.load_from_hub(REPOSITORY)) == score(agent)


def test_pushing_that_fails(hub, agent, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(AgentError, match=r"the agent was not pushed, the Hub did not answer as it should: .*Unauthorized"):
        push(agent, token=False)
    with pytest.raises(AgentError, match="the agent was not pushed, that names no repository"):
        sb3_spiking.push_to_hub(agent, "a/b/c", "CartPole-v1", n_eval_episodes=1, video_length=0)


def test_a_video(hub, agent):
    pytest.importorskip("pygame")
    push(agent, video_length=20)
    video = hub.repositories[REPOSITORY][-1]["replay.mp4"]
    assert video[4:8] == b"ftyp"


def run(module, arguments, folder, hub, **environment):
    of_the_hub = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "home"), "HF_TOKEN": "secret"}
    return finished(python("-m", module, *arguments.split(), folder=folder, **of_the_hub, **environment))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env", "settings"),
    [
        ("CartPole-v1", "learning_starts:50 policy_kwargs:dict(net_arch=[16],num_steps=4)"),
        (
            "PongNoFrameskip-v4",
            "buffer_size:100 learning_starts:50 policy_kwargs:dict(conv_layers=[(2,8,8)],features_dim=8,num_steps=2)",
        ),
    ],
)
def test_rl_zoos_own_commands(hub, tmp_path, env, settings):
    run("rl_zoo3.train", f"--algo dqn --env {env} -n 100 -f sb3_spiking -params {settings}", tmp_path, hub)
    trained = DQN.load(tmp_path / f"sb3_spiking/dqn/{env}_1/{env}.zip", buffer_size=1)
    if env == "PongNoFrameskip-v4":  # evaluating and pushing by RL Zoo takes ten whole games
        sb3_spiking.push_to_hub(trained, f"org/dqn-{env}", env, n_eval_episodes=1, video_length=0)
    else:
        options = f"--algo dqn --env {env} -f sb3_spiking -orga org --no-render"
        assert "repaired" in run("sb3_spiking", f"push_to_hub {options}", tmp_path, hub)
    options = f"--algo dqn --env {env} -f elsewhere -orga org"
    run("sb3_spiking", f"load_from_hub {options}", tmp_path, hub, TRUST_REMOTE_CODE="True")
    run("rl_zoo3.enjoy", f"--algo dqn --env {env} -f elsewhere --no-render -n 20", tmp_path, hub)
    loaded = sb3_spiking.load_from_hub(f"org/dqn-{env}")
    assert all(
        (ours == theirs).all() for ours, theirs in zip(loaded.policy.parameters(), trained.policy.parameters(), strict=True)
    )
