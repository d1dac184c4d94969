//! The examples of `examples/`, as far as they can be played without the services that they are for: the very steps, commands and
//! requests that stand in them, against a real controller and agents.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail as a test does")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use preflight_tests::lab::{Agent, AgentOptions, Answer, Api, Controller, Host, Lab, Server, binary};
use serde_json::{Value, json};

const INVENTORY: &str = "\
regions:
  eu:
    vars: {dns: eu-west-1}
    fleets:
      web: {}
applications:
  app:
    fleets: {eu: [web]}
";
const MANIFEST: &str = "\
application: app
dependencies:
  ai-cache:
    target: redis://ai-cache.{dns}.internal:6379
";

/// A region whose fleet depends on a cache that nobody has started yet.
struct Stage {
    controller: Controller,
    cache: Host,
    _agents: Vec<Agent>,
    /// Scopes `gate` and `release`.
    token: String,
    ca_pem: String,
}

impl Stage {
    fn new(lab: &Lab) -> Self {
        let controller = lab.controller();
        let cache = lab.host("cache", &["10.9.0.1"]);
        cache.name_address("ai-cache.eu-west-1.internal");
        controller.inventory(INVENTORY);
        let agents = (1..=2).map(|n| {
            let host = lab.host(&format!("eu-web-{n}"), &[&format!("10.1.1.{n}")]);
            controller.agent(&host, "eu", "web", &AgentOptions::default())
        });
        let agents: Vec<Agent> = agents.collect();
        controller.await_agents(2);
        let words = ["token", "create", "--name", "pipeline", "--scope", "gate", "--scope", "release"];
        let made = controller.preflight(&words).expect_code(0);
        let token = made.stdout.lines().next_back().unwrap_or_default().trim().to_owned();
        let ca_pem = controller.api().ca_pem;
        Self { controller, cache, _agents: agents, token, ca_pem }
    }

    /// Somebody opens the way.
    fn repair(&self) -> Server {
        self.cache.redis(6379, &[])
    }

    /// A directory on the pipeline's host, with what a checkout has.
    fn checkout(&self, name: &str) -> PathBuf {
        let dir = self.controller.pipeline.dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("preflight.yaml"), MANIFEST).unwrap();
        let deploy = dir.join("deploy.sh");
        fs::write(&deploy, "#!/bin/sh\necho \"$@\" > deployed\n").unwrap();
        fs::set_permissions(&deploy, fs::Permissions::from_mode(0o755)).unwrap();
        dir
    }

    /// Runs words there, with the built binaries in the path; the exit code and all that was said.
    fn run(&self, dir: &Path, words: &[&str], environment: &BTreeMap<String, String>) -> (i32, String) {
        let preflight = PathBuf::from(binary("preflight"));
        let path = format!("{}:/usr/bin:/bin", preflight.parent().unwrap().display());
        let into = ["sh", "-c", "cd \"$1\"; shift; exec timeout -k 1 150 \"$@\"", "sh", dir.to_str().unwrap()];
        let mut command = self.controller.pipeline.command(&[into.as_slice(), words].concat());
        let output = command.envs(environment).env("PATH", path).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout) + &text(&output.stderr))
    }

    /// What a service asks for, as its client would; the URL's host is the controller's here.
    fn asked(&self, url: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        let (_, path) = url.strip_prefix("https://").unwrap().split_once('/').unwrap();
        let api = Api { token: None, ..self.controller.api() };
        api.send("POST", &format!("/{path}"), headers, Some(body)).unwrap()
    }
}

/// A file of `examples/`, each document by itself.
fn example(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name);
    let text = fs::read_to_string(&path).unwrap();
    serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("no list: {value}"))
}

/// `${{ … }}` as the runner fills it in.
fn filled(value: &str, values: &[(&str, String)]) -> String {
    let mut out = value.to_owned();
    for (name, value) in values {
        out = out.replace(&format!("${{{{ {name} }}}}"), value);
    }
    assert!(!out.contains("${{"), "{out}");
    out
}

/// `name=value` lines, the last of each name.
fn variables(path: &Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// Plays the job of `github-actions.yml`: the step that failed, if one did, and all that was said.
fn github(stage: &Stage, dir: &Path) -> (Option<String>, String) {
    let [workflow] = example("github-actions.yml").try_into().unwrap();
    let job = &workflow["jobs"]["deploy"];
    let outputs = dir.join("outputs");
    let mut said = String::new();
    for step in list(&job["steps"]) {
        let Some(script) = step["run"].as_str() else { continue };
        let mut values = vec![
            ("secrets.PREFLIGHT_URL", "https://controller.lab:7443".to_owned()),
            ("secrets.PREFLIGHT_TOKEN", stage.token.clone()),
            ("secrets.PREFLIGHT_CA_PEM", stage.ca_pem.clone()),
            ("github.workspace", dir.display().to_string()),
        ];
        let output = variables(&outputs);
        values.extend(output.get("id").map(|id| ("steps.preflight.outputs.id", id.clone())));
        let mut environment: BTreeMap<String, String> = [
            ("GITHUB_SHA", "3f786850e387550fdab836ed7e6dc881de23001b".to_owned()),
            ("GITHUB_WORKSPACE", dir.display().to_string()),
            ("GITHUB_OUTPUT", outputs.display().to_string()),
            ("GITHUB_STEP_SUMMARY", dir.join("summary.md").display().to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        for of in [&job["env"], &step["env"]] {
            let given = of.as_object().into_iter().flatten();
            environment.extend(given.map(|(name, value)| (name.clone(), filled(text(value), &values))));
        }
        let (code, output) = stage.run(dir, &["bash", "-e", "-c", script], &environment);
        said.push_str(&output);
        if code != 0 {
            return (Some(text(&step["name"]).to_owned()), said);
        }
    }
    (None, said)
}

#[test]
fn github_actions() {
    let lab = Lab::new();
    let stage = Stage::new(&lab);
    let dir = stage.checkout("github");
    let (failed, said) = github(&stage, &dir);
    assert_eq!(failed.as_deref(), Some("Connectivity"), "{said}");
    assert!(!dir.join("deployed").exists());
    assert!(
        said.contains("\n::error file=preflight.yaml,line=3,title=preflight%3A ai-cache connect_refused::"),
        "{said}"
    );
    assert_eq!(variables(&dir.join("outputs"))["decision"], "block");
    assert!(fs::read_to_string(dir.join("summary.md")).unwrap().contains("BLOCK"));
    validate(&dir);

    let _redis = stage.repair();
    let (failed, said) = github(&stage, &dir);
    assert_eq!(failed, None, "{said}");
    assert_eq!(fs::read_to_string(dir.join("deployed")).unwrap(), "eu 3f786850e387550fdab836ed7e6dc881de23001b\n");
    assert_eq!(variables(&dir.join("outputs"))["decision"], "proceed");
    validate(&dir);
}

#[test]
fn gitlab_ci() {
    let lab = Lab::new();
    let stage = Stage::new(&lab);
    let dir = stage.checkout("gitlab");
    fs::write(dir.join("ca.pem"), &stage.ca_pem).unwrap();
    let [pipeline] = example("gitlab-ci.yml").try_into().unwrap();
    let play = |job: &str| {
        let mut environment: BTreeMap<String, String> = [
            ("CI_COMMIT_SHA", "3f786850"),
            ("PREFLIGHT_URL", "https://controller.lab:7443"),
            ("PREFLIGHT_TOKEN", stage.token.as_str()),
            ("PREFLIGHT_CA", dir.join("ca.pem").to_str().unwrap()),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        let job = &pipeline[job];
        environment.extend(variables(&dir.join("preflight.env")));
        let lines = list(&job["script"]).iter().map(text);
        let script = lines.collect::<Vec<_>>().join("\n");
        stage.run(&dir, &["bash", "-eo", "pipefail", "-c", &script], &environment)
    };
    let (code, said) = play("connectivity");
    assert_eq!(code, 2, "{said}");
    validate(&dir);
    let _redis = stage.repair();
    let (code, said) = play("connectivity");
    assert_eq!(code, 0, "{said}");
    validate(&dir);
    let reports = &pipeline["connectivity"]["artifacts"]["reports"];
    assert!(dir.join(text(&reports["junit"])).is_file());
    let verdict = variables(&dir.join(text(&reports["dotenv"])));
    assert_eq!(verdict.get("VERDICT").map(String::len), Some(16), "{verdict:?}");
    let (code, said) = play("deploy");
    assert_eq!(code, 0, "{said}");
    assert_eq!(fs::read_to_string(dir.join("deployed")).unwrap(), "eu 3f786850\n");
}

/// The reports that a job leaves: JSON by the published schema, all of whose fields it knows, and XML.
fn validate(dir: &Path) {
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/gate.schema.json");
    let mut schema: Value = serde_json::from_str(&fs::read_to_string(schema).unwrap()).unwrap();
    close(&mut schema);
    let answer: Value = serde_json::from_str(&fs::read_to_string(dir.join("preflight.json")).unwrap()).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> = validator.iter_errors(&answer).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}\n{answer:#}");
    let seen = answer["regions"][0]["cells"][0]["evidence"].as_array().map_or(0, Vec::len);
    assert!(seen >= 2, "evidence is what the schema says most of: {answer:#}");
    let mut more = answer;
    more["regions"][0]["cells"][0]["surprise"] = json!(1);
    assert!(!validator.is_valid(&more), "the schema was not closed");

    let xml = fs::read_to_string(dir.join("preflight.xml")).unwrap();
    let xml = roxmltree::Document::parse(&xml).unwrap();
    assert!(xml.descendants().any(|node| node.attribute("classname") == Some("eu/web")));
}

/// Takes it that no more fields may come, so that what is printed and not described shows.
fn close(schema: &mut Value) {
    if let Some(object) = schema.as_object_mut()
        && object.contains_key("properties")
        && !object.contains_key("additionalProperties")
    {
        object.insert("unevaluatedProperties".to_owned(), json!(false));
    }
    match schema {
        Value::Array(items) => items.iter_mut().for_each(close),
        Value::Object(fields) => fields.values_mut().for_each(close),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn argo_cd_presync_job() {
    let lab = Lab::new();
    let stage = Stage::new(&lab);
    let [config, job] = example("argocd-presync-job.yaml").try_into().unwrap();
    for object in [&config, &job] {
        assert_eq!(object["metadata"]["annotations"]["argocd.argoproj.io/hook"], "PreSync");
    }
    let wave = |object: &Value| {
        object["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"]
            .as_str()
            .map_or(0, |wave| wave.parse::<i32>().unwrap())
    };
    assert!(wave(&config) < wave(&job), "the manifest is there before the job");
    assert_eq!(job["spec"]["backoffLimit"], 0);
    let pod = &job["spec"]["template"]["spec"];
    assert_eq!(pod["restartPolicy"], "Never");
    let container = &pod["containers"][0];

    // What kubelet would mount.
    let dir = stage.checkout("argocd");
    let mut mounts: Vec<(String, String)> = Vec::new();
    for mount in list(&container["volumeMounts"]) {
        let volume = list(&pod["volumes"]).iter().find(|volume| volume["name"] == mount["name"]).unwrap();
        let to = dir.join(text(&mount["name"]));
        fs::create_dir_all(&to).unwrap();
        if volume["configMap"]["name"] == config["metadata"]["name"] {
            for (name, data) in config["data"].as_object().unwrap() {
                fs::write(to.join(name), text(data)).unwrap();
            }
        } else {
            assert_eq!(volume["secret"]["secretName"], "preflight");
            fs::write(to.join(text(&volume["secret"]["items"][0]["path"])), &stage.ca_pem).unwrap();
        }
        mounts.push((text(&mount["mountPath"]).to_owned(), to.display().to_string()));
    }
    let mounted = |value: &str| {
        let found =
            mounts.iter().find_map(|(at, to)| Some(format!("{to}/{}", value.strip_prefix(at)?.strip_prefix('/')?)));
        found.unwrap_or_else(|| value.to_owned())
    };
    let mut environment = BTreeMap::new();
    for variable in list(&container["env"]) {
        let value = match variable["valueFrom"]["secretKeyRef"]["key"].as_str() {
            Some("url") => "https://controller.lab:7443".to_owned(),
            Some("token") => stage.token.clone(),
            Some(other) => panic!("the Secret has no {other}"),
            None => mounted(text(&variable["value"])),
        };
        environment.insert(text(&variable["name"]).to_owned(), value);
    }
    let words: Vec<String> = list(&container["command"])
        .iter()
        .map(|word| {
            environment
                .iter()
                .fold(mounted(text(word)), |word, (name, value)| word.replace(&format!("$({name})"), value))
        })
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (code, said) = stage.run(&dir, &words, &environment);
    assert_eq!(code, 2, "{said}");
    let _redis = stage.repair();
    let (code, said) = stage.run(&dir, &words, &environment);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("app 2025-03-31.1"), "{said}");
}

#[test]
fn argo_rollouts_web_metric() {
    let lab = Lab::new();
    let stage = Stage::new(&lab);
    let [template] = example("argo-rollouts.yaml").try_into().unwrap();
    assert_eq!(
        (&template["apiVersion"], &template["kind"]),
        (&json!("argoproj.io/v1alpha1"), &json!("AnalysisTemplate"))
    );
    let metric = &template["spec"]["metrics"][0];
    // Argo fills in arguments in the metric's JSON, each as it stands inside a string.
    let mut filled = metric.to_string();
    for argument in list(&template["spec"]["args"]) {
        let name = text(&argument["name"]);
        let value = match name {
            "release" => "2025-03-31.1",
            "token" => stage.token.as_str(),
            _ => text(&argument["value"]),
        };
        filled = filled.replace(&format!("{{{{args.{name}}}}}"), value);
    }
    let metric: Value = serde_json::from_str(&filled).unwrap();
    let web = &metric["provider"]["web"];
    assert_eq!((&web["method"], &web["jsonPath"]), (&json!("POST"), &json!("{$.decision}")));
    assert!(web["jsonBody"]["wait_ms"].as_u64().unwrap() / 1_000 < web["timeoutSeconds"].as_u64().unwrap());
    let mut headers: Vec<(&str, &str)> =
        list(&web["headers"]).iter().map(|header| (text(&header["key"]), text(&header["value"]))).collect();
    headers.push(("Content-Type", "application/json"));
    headers.push(("User-Agent", "Go-http-client/1.1"));
    let measured = || {
        let answer = stage.asked(text(&web["url"]), &headers, &web["jsonBody"]);
        // Anything else is an error to Argo.
        assert!((200..300).contains(&answer.status), "{answer:?}");
        let result = answer.json()["decision"].clone();
        let holds = |condition: &str| text(&metric[condition]) == format!("result == {result}");
        (holds("successCondition"), holds("failureCondition"))
    };
    assert_eq!(measured(), (false, true));
    let _redis = stage.repair();
    assert_eq!(measured(), (true, false));
}

#[test]
fn flagger_webhook() {
    let lab = Lab::new();
    let stage = Stage::new(&lab);
    let [canary] = example("flagger.yaml").try_into().unwrap();
    assert_eq!((&canary["apiVersion"], &canary["kind"]), (&json!("flagger.app/v1beta1"), &json!("Canary")));
    let webhook = &canary["spec"]["analysis"]["webhooks"][0];
    assert_ne!(webhook["type"], "rollback", "there a yes rolls back");
    let url = text(&webhook["url"]).replace("TOKEN", &stage.token);
    let (user, rest) = url.strip_prefix("https://").unwrap().split_once('@').unwrap();
    let payload = json!({"name": canary["metadata"]["name"], "namespace": canary["metadata"]["namespace"], "phase": "Progressing",
        "checksum": "85d557f47b", "metadata": webhook["metadata"]});
    // What Go's client makes of a user in a URL.
    let basic = |user: &str| format!("Basic {}", BASE64_STANDARD.encode(user));
    let call = |authorization: &str, payload: &Value| {
        let headers = [("Content-Type", "application/json"), ("Authorization", authorization)];
        stage.asked(&format!("https://{rest}"), &headers, payload)
    };
    let held = call(&basic(user), &payload);
    assert_eq!((held.status, &held.json()["decision"]), (409, &json!("block")), "{held:?}");
    let _redis = stage.repair();
    let goes_on = call(&basic(user), &payload);
    // Flagger takes 200 to 202.
    assert_eq!((goes_on.status, &goes_on.json()["decision"]), (200, &json!("proceed")), "{goes_on:?}");
    assert_eq!(goes_on.json()["release"], webhook["metadata"]["release"]);

    // Who is not known, or what is not understood, does not go on.
    assert_eq!(call(&basic("preflight:pf1.wrong.wrong"), &payload).status, 401);
    let mut unknown = payload.clone();
    unknown["metadata"]["cmd"] = json!("true");
    let refused = call(&basic(user), &unknown);
    assert_eq!((refused.status, refused.json()["error"]["code"].as_str()), (422, Some("usage")), "{refused:?}");
    assert!(refused.body.contains("cmd"), "{refused:?}");
    for body in [
        json!({"name": "app", "namespace": "production", "phase": "Progressing", "checksum": "x"}),
        json!({}),
        json!([]),
    ] {
        assert_eq!(call(&basic(user), &body).status, 422, "{body}");
    }
}
