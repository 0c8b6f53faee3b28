//! Requests and answers over HTTP/1.1: routed, forwarded, measured.

use super::scene::*;

#[tokio::test]
async fn a_request_reaches_a_pod_and_says_whose_it_is() {
    let pod = Pod::start("hello").await;
    let scene = Scene::start(&[pod.address]).await;
    let mut client = scene.connect().await;
    client
        .send(
            b"POST /a/./b?c=d HTTP/1.1\r\nHost: Shop.example:81\r\nContent-Length: 4\r\n\
              X-Forwarded-For: 6.6.6.6\r\nX_Real_IP: 6.6.6.6\r\nConnection: X-Secret\r\n\
              X-Secret: 1\r\n\r\nbody",
        )
        .await;
    let answer = client.answer().await;
    assert_eq!((answer.status, &*answer.body), (200, "hello"), "{answer:?}");
    let seen = &pod.requests()[0];
    assert!(seen.head.starts_with("POST /a/b?c=d HTTP/1.1\r\n"), "{}", seen.head);
    assert_eq!(seen.body, "body");
    assert_eq!(seen.header("host"), ["Shop.example:81"]);
    assert_eq!(seen.header("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.header("x-forwarded-proto"), ["http"]);
    assert_eq!(seen.header("x-forwarded-port"), [scene.http.port().to_string()]);
    assert_eq!(seen.header("x-request-id")[0].len(), 32);
    for gone in ["x_real_ip", "x-secret", "connection"] {
        assert!(seen.header(gone).is_empty(), "{gone} in {}", seen.head);
    }
}

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let pod = Pod::start("kept").await;
    let scene = Scene::start(&[pod.address]).await;
    let mut client = scene.connect().await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.body, "kept");
    }
    let used: std::collections::BTreeSet<usize> =
        pod.requests().iter().map(|seen| seen.connection).collect();
    assert!(used.len() <= 2, "20 requests took {used:?}");
}

#[tokio::test]
async fn what_has_no_rule_or_no_pod_is_answered_by_name_and_counted() {
    let scene = Scene::bare(Default::default()).await;
    scene.route(
        &[("shop.example", "/api", "web"), ("shop.example", "/gone", "gone")],
        &[Service::new("web", &[])],
    );
    let none = scene.get("/other").await;
    assert_eq!(none.status, 404);
    assert_eq!(
        none.body,
        "404 no Ingress rule matches host \"shop.example\" and path \"/other\"\n"
    );
    let dead = scene.get("/api/x").await;
    assert_eq!(dead.status, 503);
    assert_eq!(dead.body, "503 Service shop/web has no ready pod (rule shop.example/api)\n");
    let gone = scene.get("/gone").await;
    assert_eq!(gone.body, "503 Service shop/gone does not exist (rule shop.example/gone)\n");
    let labels = "namespace=\"shop\",ingress=\"rules\",service=\"web\",method=\"GET\",code=\"5xx\"";
    scene.await_metric(&format!("joey_ingress_requests_total{{{labels}}}"), "1").await;
    scene
        .await_metric(&format!("joey_ingress_request_duration_seconds_count{{{labels}}}"), "1")
        .await;
    let unmatched = "namespace=\"\",ingress=\"\",service=\"\",method=\"GET\",code=\"4xx\"";
    scene.await_metric(&format!("joey_ingress_requests_total{{{unmatched}}}"), "1").await;
}

#[tokio::test]
async fn bytes_latency_and_work_in_flight_are_measured() {
    let pod = Pod::start("0123456789").await;
    let scene = Scene::start(&[pod.address]).await;
    let mut client = scene.connect().await;
    client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc").await;
    client.answer().await;
    let labels = "namespace=\"shop\",ingress=\"rules\",service=\"web\",method=\"PUT\",code=\"2xx\"";
    for (name, value) in [
        ("joey_ingress_requests_total", "1"),
        ("joey_ingress_request_bytes_total", "3"),
        ("joey_ingress_response_bytes_total", "10"),
        ("joey_ingress_upstream_duration_seconds_count", "1"),
    ] {
        scene.await_metric(&format!("{name}{{{labels}}}"), value).await;
    }
    scene.await_metric("joey_ingress_requests_in_flight{namespace=\"shop\"", "0").await;
}

#[tokio::test]
async fn an_unknown_method_is_forwarded_and_counted_as_other() {
    let pod = Pod::start("ok").await;
    let scene = Scene::start(&[pod.address]).await;
    for number in 0..50 {
        let request = format!("BREW{number} / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert!(scene.raw(request.as_bytes()).await.starts_with("HTTP/1.1 200"));
    }
    let text = scene.metrics();
    assert!(text.contains("method=\"other\",code=\"2xx\"} 50"), "{text}");
    assert!(!text.contains("BREW"), "{text}");
}

#[tokio::test]
async fn only_https_is_served_where_the_ingress_says_so() {
    let pod = Pod::start("ok").await;
    let scene = Scene::bare(Default::default()).await;
    let options =
        joey::net::ingress::routes::Options { redirect_to_https: true, ..Default::default() };
    let fact = ingress("rules", &[("", "/", "web")], options);
    scene.ingress.apply(&[fact], &directory(&[Service::new("web", &[pod.address])]));
    let answer = scene.get("/a?b=c").await;
    assert_eq!(answer.status, 308);
    let location = format!("https://shop.example:{}/a?b=c", scene.https.port());
    assert_eq!(answer.header("location"), Some(&*location));
    assert!(pod.requests().is_empty());
}

#[tokio::test]
async fn a_trusted_proxy_is_believed() {
    let pod = Pod::start("ok").await;
    let scene = Scene::start(&[pod.address]).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
    let mut client = Client::new(socket.connect(scene.http).await.unwrap());
    client
        .send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 198.51.100.1\r\nX-Forwarded-Proto: https\r\n\r\n")
        .await;
    client.answer().await;
    let seen = &pod.requests()[0];
    assert_eq!(seen.header("x-forwarded-for"), ["198.51.100.1, 127.0.0.9"]);
    assert_eq!(seen.header("x-forwarded-proto"), ["https"]);
}

#[tokio::test]
async fn requests_spread_over_pods_and_follow_changes() {
    let pods = [Pod::start("a").await, Pod::start("b").await, Pod::start("c").await];
    let addresses: Vec<_> = pods.iter().map(|pod| pod.address).collect();
    let scene = Scene::start(&addresses).await;
    for _ in 0..300 {
        scene.get("/").await;
    }
    for pod in &pods {
        assert!(pod.requests().len() > 50, "{}", pod.requests().len());
    }
    scene.ingress.apply_pods(&directory(&[Service::new("web", &addresses[1..2])]));
    for _ in 0..20 {
        assert_eq!(scene.get("/").await.body, "b");
    }
    let before = pods[1].requests().len();
    scene.ingress.withdraw(pods[1].ip());
    assert_eq!(scene.get("/").await.status, 503);
    assert_eq!(pods[1].requests().len(), before);
}
