//! Gates and hooks by HTTP, and gates by SQL, contract and backup: what each answer means in each phase, and what strangers answer.

use portal_release_operator::api::{PhaseName, ReleaseState};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{
    jobs::job,
    support::{Stage, containers::Containers, looks::stopped, operator::REFUSE_LOCAL, until},
};

/// The phases that have gates.
const PHASES: [PhaseName; 3] = [PhaseName::Preflight, PhaseName::ValidateAndManifest, PhaseName::Freeze];

/// A gate by HTTP with these fields.
fn http(name: &str, phase: PhaseName, hard: bool, request: Value) -> Value {
    json!({"name": name, "phase": phase, "hard": hard, "http": request})
}

/// One gate of each kind that asks the database, and one by HTTP, which pass or do not.
fn of_each_kind(stage: &Stage, phase: PhaseName, hard: bool, pass: bool) -> Vec<Value> {
    let word = if pass { "good" } else { "bad" };
    let gate = |kind: &str, probe: Value| {
        let name = format!("{word}-{kind}-{}", phase.as_str().to_lowercase());
        json!({"name": name, "phase": phase, "hard": hard, kind: probe})
    };
    let table = json!({"schema": "public", "name": if pass { "sources" } else { "nowhere" }, "columns": [{"name": "title"}]});
    let backup = if pass { "SELECT now() - interval '1 hour';" } else { "SELECT now() - interval '3 days'" };
    vec![
        gate("sql", json!(if pass { "SELECT true" } else { "SELECT false" })),
        gate("contract", json!({"tables": [table]})),
        gate("backup", json!({"maxAge": "24h", "sql": backup})),
        gate("http", json!({"url": stage.receiver.url(&format!("/{word}")), "expectBody": "fresh"})),
    ]
}

/// What the message has of gates that do not pass.
const BAD: [&str; 4] = [
    "failed: expected one row with true in the first column, got false",
    "failed: table public.nowhere does not exist",
    "failed: the newest backup is 72h00m old, more than 24h",
    "answered 500 Internal Server Error, expected a status in the 200s",
];

impl Stage {
    async fn gates(&self, gates: Vec<Value>) {
        self.edit_portal(&json!({ "gates": gates }).to_string()).await;
    }

    /// What the ledger says of a phase of the latest run.
    async fn said(&self, phase: PhaseName) -> String {
        self.text(&format!("SELECT message FROM portal_release.phases WHERE phase = '{phase}' ORDER BY run_id DESC")).await
    }
}

/// A server whose certificate is of a CA that nobody knows: the cluster's own.
fn api_server() -> String {
    let config = std::fs::read_to_string(std::env::var("KUBECONFIG").expect("KUBECONFIG of e2e/local/local up")).expect("the kubeconfig");
    let server = config.lines().find_map(|line| line.trim().strip_prefix("server: ")).expect("its server");
    format!("{server}/readyz")
}

/// A server that takes a connection, reads the request where `reads`, writes this and then holds the connection or drops it.
async fn stranger(reads: bool, text: &'static str, hold: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/check", listener.local_addr().expect("its address"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                if reads {
                    let _ = stream.read(&mut [0; 4096]).await;
                    let _ = stream.write_all(text.as_bytes()).await;
                } else {
                    // What was sent and never read makes the kernel reset the connection.
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
                if hold {
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn gates_of_every_kind_count_in_every_phase_and_a_server_that_comes_back_is_waited_for() {
    let stage = Stage::new("gatekinds").await;
    let operator = stage.operator().await;
    stage.receiver.answer("/good", 200, "all is fresh");
    stage.receiver.answer("/bad", 500, "secret-canary");
    let workers = stage.workers().await;
    let before = stage.world().await;
    let hook = |path: &str| json!({"name": path, "http": {"url": stage.receiver.url(&format!("/{path}")), "body": "{\"done\": true}"}});
    stage.receiver.answer("/second", 500, "");
    stage.edit_portal(&json!({"postSwap": [hook("first"), hook("second")]}).to_string()).await;
    stage.gates(of_each_kind(&stage, PHASES[0], true, false)).await;
    stage.make_release("jul2026", "Jul2026", "").await;
    for (retry, phase) in (1..).zip(PHASES) {
        stage.wait_failed("jul2026", phase, &BAD).await;
        stage.assert_untouched(&before, &format!("hard gates that do not pass in {phase}")).await;
        assert_eq!(stage.recorded().await, "", "no worker was recorded, so none was stopped");
        let staging = stage.staging().await;
        assert_eq!(staging.contains("staging_sources"), phase != PhaseName::Preflight, "what is built is kept: {staging}");

        // From now on the gates of this phase pass, or are soft; one has a server that is away.
        let late = |phase: PhaseName| format!("late-{}", phase.as_str().to_lowercase());
        let mut gates = Vec::new();
        for phase in &PHASES[..retry] {
            gates.extend(of_each_kind(&stage, *phase, true, true));
            gates.extend(of_each_kind(&stage, *phase, false, false));
            gates.push(http(&late(*phase), *phase, true, json!({"url": stage.receiver.url(&format!("/{}", late(*phase)))})));
        }
        gates.extend(PHASES.get(retry).into_iter().flat_map(|next| of_each_kind(&stage, *next, true, false)));
        stage.gates(gates).await;
        stage.receiver.answer(&format!("/{}", late(phase)), 503, "");
        stage.edit("jul2026", &format!("{{\"retry\": {retry}}}")).await;
        let words = format!("hard gate {} answered 503 Service Unavailable, expected a status in the 200s; asking again in", late(phase));
        stage.wait("jul2026", "waiting for a gate", |status| status.message.contains(&words)).await;
        assert_eq!(stage.workers().await, workers, "while a gate is waited for");
        stage.receiver.answer(&format!("/{}", late(phase)), 200, "");
    }

    until("the second hook is called", || async { (stage.receiver.count("/second") > 0).then_some(()) }).await;
    stage.receiver.answer("/second", 200, "");
    let status = stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(stopped(&status), "");
    let told = stage.audit("Jul2026", "PhaseFailed").await;
    let by_gates = told.lines().filter(|line| !line.starts_with("hook second answered 500")).count();
    assert_eq!(by_gates, PHASES.len(), "only the hard gates have failed a phase: {told}");
    for phase in PHASES {
        let said = stage.said(phase).await;
        assert!(BAD.iter().all(|words| said.contains(words)) && said.contains(", 9 gates; soft gate bad-sql"), "{phase}: {said}");
        assert!(!said.contains("retried"), "it will not: {said}");
    }
    assert_eq!(stage.receiver.count("/first"), 1, "a hook that has succeeded is not called again");
    assert!(stage.receiver.count("/second") >= 2);
    assert!(!stage.readable().await.contains("secret-canary") && !operator.log().contains("secret-canary"), "no body is repeated");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_strangers_answer_is_told_in_words_and_ends_nothing_that_is_soft() {
    let stage = Stage::new("gatestrange").await;
    let local = json!({"url": "http://169.254.169.254/latest/meta-data?token=canary", "retries": 60});
    stage.gates(vec![http("metadata", PhaseName::Preflight, true, local)]).await;
    let careful = stage.operator_with("careful", &[REFUSE_LOCAL]).await;
    stage.make_release("jul2026", "Jul2026", "dryRun: true").await;
    let words = ["hard gate metadata was not called", "local address (169.254.169.254)", "--allow-local-addresses"];
    stage.wait_failed("jul2026", PhaseName::Preflight, &words).await;
    careful.terminate().await;

    let operator = stage.operator_alone().await;
    let secret = |name: &str, key: &str| json!([{"name": "Authorization", "valueSecretRef": {"name": name, "key": key}}]);
    stage.receiver.answer("/empty", 200, "");
    stage.receiver.answer("/login", 302, "");
    stage.receiver.answer("/broken", 500, "");
    let hard = |name: &str, request: Value| http(name, PhaseName::Preflight, true, request);
    let at = |path: &str| json!({"url": stage.receiver.url(path), "expectBody": "ok"});
    let mut lacking = at("/empty");
    lacking["headers"] = secret("portal-db", "absent");
    stage
        .gates(vec![hard("empty", at("/empty")), hard("login", at("/login")), hard("broken", at("/broken")), hard("lacking", lacking)])
        .await;
    stage.edit("jul2026", r#"{"retry": 1}"#).await;
    let words = [
        "hard gate empty answered 200 OK without a body",
        "hard gate login answered 302 Found, expected a status in the 200s; redirects are not followed",
        "hard gate broken answered 500",
        "hard gate lacking was not called: Secret",
        "has no value under the key absent",
    ];
    let status = stage.wait_failed("jul2026", PhaseName::Preflight, &words).await;
    assert!(!status.message.contains("retried"), "{}", status.message);

    let api_server = api_server();
    let endless = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: it begins\n\n";
    let soft = |name: &str, request: Value| http(name, PhaseName::Preflight, false, request);
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a free port").local_addr().expect("its address");
    stage
        .gates(vec![
            // All that pass: a text is found in a body that never ends.
            http("begins", PhaseName::Preflight, true, json!({"url": stranger(true, endless, true).await, "expectBody": "it begins"})),
            soft("reset", json!({"url": stranger(false, "", false).await})),
            soft("endless", json!({"url": stranger(true, endless, true).await, "expectBody": "the end", "timeout": "1s"})),
            soft(
                "cut",
                json!({"url": stranger(true, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort", false).await, "expectBody": "long"}),
            ),
            soft("unknown-ca", json!({"url": api_server})),
            soft("closed", json!({"url": format!("http://{closed}/?token=canary")})),
            soft("forbidden-secret", json!({"url": stage.receiver.url("/x"), "headers": secret("nobodys", "token")})),
        ])
        .await;
    stage.edit("jul2026", r#"{"retry": 2}"#).await;
    stage.wait_state("jul2026", ReleaseState::DryRunComplete).await;
    let said = stage.said(PhaseName::Preflight).await;
    for words in [
        ", 7 gates; soft gate reset did not answer: ",
        "soft gate endless did not answer within 1s; raise http.timeout",
        "soft gate cut did not answer: ",
        "UnknownIssuer; name its CA in http.caFrom",
        "soft gate closed did not answer: error sending request: client error (Connect): tcp connect error: Connection refused",
        "soft gate forbidden-secret could not be evaluated: cannot read Secret",
    ] {
        assert!(said.contains(words), "'{words}' is missing: {said}");
    }
    assert!(!said.contains("retried") && !said.contains("canary"), "{said}");
    assert!(!operator.log().contains("token=canary"), "a URL may hold secrets");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gates_job_that_succeeded_is_not_run_again_because_another_gate_keeps_its_phase_waiting() {
    let stage = Stage::new("gateonce").await;
    let containers = Containers::of(&stage);
    let _operator = stage.operator().await;
    stage.job_template(&job("exit 0")).await;
    stage.receiver.answer("/away", 503, "");
    let tests = json!({"name": "unit-tests", "phase": "Preflight", "job": {"templateConfigMapRef": {"name": "portal-sql"}}});
    // A soft one without its template rejects nothing, neither here nor when it is evaluated.
    let lacking = json!({"name": "lacking", "phase": "Preflight", "hard": false, "job": {"templateConfigMapRef": {"name": "portal-sql", "key": "none.yaml"}}});
    let away = http("away", PhaseName::Preflight, true, json!({"url": stage.receiver.url("/away")}));
    stage.gates(vec![tests, lacking, away]).await;
    stage.make_release("jul2026", "Jul2026", "dryRun: true").await;
    stage.wait("jul2026", "waiting for a gate", |status| status.message.contains("gate away answered 503")).await;
    let failed = until("the phase is repeated", || async {
        let failed = stage.audit("Jul2026", "PhaseFailed").await;
        (!failed.is_empty()).then_some(failed)
    })
    .await;
    assert_eq!(failed, "hard gate away answered 503 Service Unavailable, expected a status in the 200s; it will be retried");
    stage.receiver.answer("/away", 200, "");
    stage.wait_state("jul2026", ReleaseState::DryRunComplete).await;
    assert_eq!(containers.started().len(), 1, "{:?}", containers.started());
    let said = stage.said(PhaseName::Preflight).await;
    assert!(said.contains("soft gate lacking") && said.contains("has no value under the key none.yaml"), "{said}");
    assert_eq!(stage.attempts("Jul2026", &[PhaseName::Preflight]).await, "Preflight=2");
}
