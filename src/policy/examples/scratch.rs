use std::path::PathBuf; use std::time::Instant;
fn main(){
 let n=1<<20;
 let cases: Vec<(&str,String)>=vec![
  ("open", "a = ".to_string()+&"[".repeat(n-10)),
  ("dots", "a".to_string()+&".a".repeat(n/2-10)+"=1"),
  ("tables", (0..60000).map(|i|format!("[t{i}.a.b]\n")).collect()),
  ("aot", (0..n/12).map(|_|"[[service]]\n".to_string()).collect()),
  ("inline", "a = ".to_string()+&"{a=".repeat(n/3-10)),
  ("dupes", "a = 1\n".repeat(n/6)),
  ("keys", (0..90000).map(|i|format!("k{i}=1\n")).collect()),
  ("longline", format!("ssh = [{}]", "1,".repeat(n/2-20))),
  ("doors", format!("doors = [{}]", "1,".repeat(n/2-20))),
  ("header", "[".to_string()+&"a.".repeat(n/2-20)+"a]"),
  ("headers", ("[".to_string()+&"a.".repeat(70)+"a]\n").repeat(n/144)),
  ("quotes", "\"".repeat(n)),
  ("nl", "\n".repeat(n-1)+"x"),
  ("str", format!("plan = \"{}\"", "\\u0041".repeat(n/6-10))),
 ];
 for (name,text) in cases { let files=[(PathBuf::from("bailiwick.toml"),String::new()),(PathBuf::from("tenants.d/a.toml"),text)];
  let s=Instant::now(); let r=bailiwick_policy::parse(&files); let p=s.elapsed(); let t=bailiwick_policy::render(&r.diagnostics);
  println!("{name}: {p:?} {:?} {} diags, {} bytes", s.elapsed(), r.diagnostics.len(), t.len()); }
 if let Some(d)=std::env::args().nth(1){ for _ in 0..3 {let s=Instant::now(); let r=bailiwick_policy::read(d.as_ref()); println!("read {} in {:?}", r.policy.unwrap().tenants.len(), s.elapsed());
   let s=Instant::now(); let t=bailiwick_policy::read_tenant(d.as_ref(), &"t77".parse().unwrap()); println!("one {} {:?}", t.is_ok(), s.elapsed()); }}
}
