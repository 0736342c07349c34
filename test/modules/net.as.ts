// @ts-nocheck: AssemblyScript, compiled by asc and not by tsc
/**
 * Sockets and HTTP of preview 2 for tests, on the canonical ABI by hand: `net CMD ARG… [; CMD ARG…]…`. What is refused
 * is printed as `CMD: error STEP CODE` on stdout, CODE being the position in the WIT enum or variant.
 */
import { args, put, utf8 } from "./wasi.as";

@external("wasi:sockets/instance-network@0.2.12", "instance-network")
declare function instance_network(): i32;
@external("wasi:sockets/tcp-create-socket@0.2.12", "create-tcp-socket")
declare function create_tcp_socket(family: i32, ret: usize): void;
@external("wasi:sockets/tcp@0.2.12", "[method]tcp-socket.start-bind")
declare function tcp_start_bind(s: i32, n: i32, tag: i32, port: i32, a: i32, b: i32, c: i32, d: i32, p5: i32, p6: i32, p7: i32, p8: i32, p9: i32, p10: i32, ret: usize): void;
@external("wasi:sockets/tcp@0.2.12", "[method]tcp-socket.finish-bind")
declare function tcp_finish_bind(s: i32, ret: usize): void;
@external("wasi:sockets/tcp@0.2.12", "[method]tcp-socket.start-listen")
declare function tcp_start_listen(s: i32, ret: usize): void;
@external("wasi:sockets/tcp@0.2.12", "[method]tcp-socket.finish-listen")
declare function tcp_finish_listen(s: i32, ret: usize): void;
@external("wasi:sockets/tcp@0.2.12", "[method]tcp-socket.accept")
declare function tcp_accept(s: i32, ret: usize): void;
@external("wasi:sockets/tcp@0.2.12", "[method]tcp-socket.local-address")
declare function tcp_local_address(s: i32, ret: usize): void;
@external("wasi:sockets/tcp@0.2.12", "[method]tcp-socket.start-connect")
declare function tcp_start_connect(s: i32, n: i32, tag: i32, port: i32, a: i32, b: i32, c: i32, d: i32, p5: i32, p6: i32, p7: i32, p8: i32, p9: i32, p10: i32, ret: usize): void;
@external("wasi:sockets/tcp@0.2.12", "[method]tcp-socket.finish-connect")
declare function tcp_finish_connect(s: i32, ret: usize): void;
@external("wasi:sockets/tcp@0.2.12", "[method]tcp-socket.subscribe")
declare function tcp_subscribe(s: i32): i32;
@external("wasi:sockets/tcp@0.2.12", "[method]tcp-socket.shutdown")
declare function tcp_shutdown(s: i32, how: i32, ret: usize): void;
@external("wasi:sockets/tcp@0.2.12", "[resource-drop]tcp-socket")
declare function tcp_drop(s: i32): void;
@external("wasi:sockets/udp-create-socket@0.2.12", "create-udp-socket")
declare function create_udp_socket(family: i32, ret: usize): void;
@external("wasi:sockets/udp@0.2.12", "[method]udp-socket.start-bind")
declare function udp_start_bind(s: i32, n: i32, tag: i32, port: i32, a: i32, b: i32, c: i32, d: i32, p5: i32, p6: i32, p7: i32, p8: i32, p9: i32, p10: i32, ret: usize): void;
@external("wasi:sockets/udp@0.2.12", "[method]udp-socket.finish-bind")
declare function udp_finish_bind(s: i32, ret: usize): void;
@external("wasi:sockets/udp@0.2.12", "[method]udp-socket.subscribe")
declare function udp_subscribe(s: i32): i32;
@external("wasi:sockets/udp@0.2.12", "[method]udp-socket.stream")
declare function udp_stream(s: i32, some: i32, tag: i32, port: i32, a: i32, b: i32, c: i32, d: i32, p5: i32, p6: i32, p7: i32, p8: i32, p9: i32, p10: i32, ret: usize): void;
@external("wasi:sockets/udp@0.2.12", "[method]outgoing-datagram-stream.check-send")
declare function udp_check_send(s: i32, ret: usize): void;
@external("wasi:sockets/udp@0.2.12", "[method]outgoing-datagram-stream.send")
declare function udp_send(s: i32, list: usize, count: i32, ret: usize): void;
@external("wasi:sockets/udp@0.2.12", "[method]incoming-datagram-stream.receive")
declare function udp_receive(s: i32, max: i64, ret: usize): void;
@external("wasi:sockets/udp@0.2.12", "[method]incoming-datagram-stream.subscribe")
declare function udp_incoming(s: i32): i32;
@external("wasi:sockets/ip-name-lookup@0.2.12", "resolve-addresses")
declare function resolve_addresses(n: i32, name: usize, length: i32, ret: usize): void;
@external("wasi:sockets/ip-name-lookup@0.2.12", "[method]resolve-address-stream.resolve-next-address")
declare function resolve_next(s: i32, ret: usize): void;
@external("wasi:sockets/ip-name-lookup@0.2.12", "[method]resolve-address-stream.subscribe")
declare function resolve_subscribe(s: i32): i32;
@external("wasi:io/poll@0.2.12", "[method]pollable.block")
declare function pollable_block(p: i32): void;
@external("wasi:io/poll@0.2.12", "[resource-drop]pollable")
declare function pollable_drop(p: i32): void;
@external("wasi:io/streams@0.2.12", "[method]input-stream.blocking-read")
declare function blocking_read(s: i32, length: i64, ret: usize): void;
@external("wasi:io/streams@0.2.12", "[method]output-stream.blocking-write-and-flush")
declare function blocking_write(s: i32, at: usize, length: i32, ret: usize): void;
@external("wasi:io/streams@0.2.12", "[method]output-stream.check-write")
declare function check_write(s: i32, ret: usize): void;
@external("wasi:io/streams@0.2.12", "[method]output-stream.write")
declare function write(s: i32, at: usize, length: i32, ret: usize): void;
@external("wasi:io/streams@0.2.12", "[method]output-stream.subscribe")
declare function output_subscribe(s: i32): i32;
@external("wasi:io/streams@0.2.12", "[resource-drop]input-stream")
declare function input_drop(s: i32): void;
@external("wasi:io/streams@0.2.12", "[resource-drop]output-stream")
declare function output_drop(s: i32): void;
@external("wasi:http/types@0.2.12", "[constructor]fields")
declare function fields_new(): i32;
@external("wasi:http/types@0.2.12", "[method]fields.append")
declare function fields_append(f: i32, name: usize, n: i32, value: usize, v: i32, ret: usize): void;
@external("wasi:http/types@0.2.12", "[constructor]outgoing-request")
declare function request_new(fields: i32): i32;
@external("wasi:http/types@0.2.12", "[method]outgoing-request.set-method")
declare function set_method(r: i32, tag: i32, at: usize, length: i32): i32;
@external("wasi:http/types@0.2.12", "[method]outgoing-request.set-path-with-query")
declare function set_path(r: i32, some: i32, at: usize, length: i32): i32;
@external("wasi:http/types@0.2.12", "[method]outgoing-request.set-scheme")
declare function set_scheme(r: i32, some: i32, tag: i32, at: usize, length: i32): i32;
@external("wasi:http/types@0.2.12", "[method]outgoing-request.set-authority")
declare function set_authority(r: i32, some: i32, at: usize, length: i32): i32;
@external("wasi:http/types@0.2.12", "[method]outgoing-request.body")
declare function request_body(r: i32, ret: usize): void;
@external("wasi:http/types@0.2.12", "[method]outgoing-body.write")
declare function body_write(b: i32, ret: usize): void;
@external("wasi:http/types@0.2.12", "[static]outgoing-body.finish")
declare function body_finish(b: i32, some: i32, trailers: i32, ret: usize): void;
@external("wasi:http/outgoing-handler@0.2.12", "handle")
declare function http_handle(r: i32, some: i32, options: i32, ret: usize): void;
@external("wasi:http/types@0.2.12", "[method]future-incoming-response.subscribe")
declare function future_subscribe(f: i32): i32;
@external("wasi:http/types@0.2.12", "[method]future-incoming-response.get")
declare function future_get(f: i32, ret: usize): void;
@external("wasi:http/types@0.2.12", "[method]incoming-response.status")
declare function response_status(r: i32): i32;
@external("wasi:http/types@0.2.12", "[method]incoming-response.consume")
declare function response_consume(r: i32, ret: usize): void;
@external("wasi:http/types@0.2.12", "[method]incoming-body.stream")
declare function body_stream(b: i32, ret: usize): void;

const ret: usize = memory.data(256);
let command = "";

function say(s: string): void {
  put(1, s + "\n");
}
/** Whether the result at `ret` is an error; its code lies at `at`. */
function failed(step: string, at: usize): bool {
  if (load<u8>(ret) == 0) return false;
  say(command + ": error " + step + " " + load<u8>(ret + at).toString());
  return true;
}
function wait(pollable: i32): void {
  pollable_block(pollable);
  pollable_drop(pollable);
}
function part(address: string, i: i32): i32 {
  return <i32>parseInt(address.split(".")[i]);
}
function bytes(a: ArrayBuffer): usize {
  return changetype<usize>(a);
}

function writeAll(stream: i32, text: string): bool {
  const b = utf8(text);
  for (let at = 0; at < b.byteLength; at += 4096) {
    blocking_write(stream, bytes(b) + at, min(4096, b.byteLength - at), ret);
    if (failed("write", 4)) return false;
  }
  return true;
}
/** Reads to the end; the number of bytes, and the text while it is short. */
let text = "";
function readAll(stream: i32): i32 {
  let total = 0;
  text = "";
  blocking_read(stream, 65536, ret);
  while (load<u8>(ret) == 0) {
    const length = load<u32>(ret + 8);
    const at = load<u32>(ret + 4);
    total += length;
    if (text.length < 4096) text += String.UTF8.decodeUnsafe(at, length);
    heap.free(at);
    blocking_read(stream, 65536, ret);
  }
  if (load<u8>(ret + 4) != 1) failed("read", 4);
  return total;
}

function connect(host: string, port: i32): i32 {
  create_tcp_socket(0, ret);
  if (failed("create", 4)) return -1;
  const socket = load<i32>(ret + 4);
  tcp_start_connect(socket, instance_network(), 0, port, part(host, 0), part(host, 1), part(host, 2), part(host, 3), 0, 0, 0, 0, 0, 0, ret);
  if (failed("start-connect", 1)) return -1;
  wait(tcp_subscribe(socket));
  tcp_finish_connect(socket, ret);
  if (failed("finish-connect", 4)) return -1;
  return socket;
}

function tcp(host: string, port: i32, message: string): void {
  const socket = connect(host, port);
  if (socket < 0) return;
  const input = load<i32>(ret + 4);
  const output = load<i32>(ret + 8);
  if (!writeAll(output, message)) return;
  tcp_shutdown(socket, 1, ret);
  if (failed("shutdown", 1)) return;
  readAll(input);
  say("got " + text);
  input_drop(input);
  output_drop(output);
  tcp_drop(socket);
}

/** Sends `total` bytes without flushing, as fast as they are taken, and ends at once. */
function pour(host: string, port: i32, total: i32): void {
  const socket = connect(host, port);
  if (socket < 0) return;
  const output = load<i32>(ret + 8);
  const chunk = new ArrayBuffer(65536);
  for (let sent = 0; sent < total; ) {
    wait(output_subscribe(output));
    check_write(output, ret);
    if (failed("check-write", 8)) return;
    const n = min(min(65536, <i32>load<u64>(ret + 8)), total - sent);
    write(output, bytes(chunk), n, ret);
    if (failed("write", 4)) return;
    sent += n;
  }
  say("poured " + total.toString());
}

/** Counts what a server sends. */
function drink(host: string, port: i32): void {
  const socket = connect(host, port);
  if (socket < 0) return;
  say("drank " + readAll(load<i32>(ret + 4)).toString());
}

/** Accepts one connection and echoes it. */
function serve(port: i32): void {
  create_tcp_socket(0, ret);
  if (failed("create", 4)) return;
  const socket = load<i32>(ret + 4);
  tcp_start_bind(socket, instance_network(), 0, port, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, ret);
  if (failed("start-bind", 1)) return;
  wait(tcp_subscribe(socket));
  tcp_finish_bind(socket, ret);
  if (failed("finish-bind", 1)) return;
  tcp_start_listen(socket, ret);
  if (failed("start-listen", 1)) return;
  tcp_finish_listen(socket, ret);
  if (failed("finish-listen", 1)) return;
  tcp_local_address(socket, ret);
  if (failed("local-address", 4)) return;
  say("listening " + load<u16>(ret + 8).toString());
  wait(tcp_subscribe(socket));
  tcp_accept(socket, ret);
  if (failed("accept", 4)) return;
  const peer = load<i32>(ret + 4);
  const input = load<i32>(ret + 8);
  const output = load<i32>(ret + 12);
  readAll(input);
  const heard = text;
  writeAll(output, "echo " + heard);
  input_drop(input);
  output_drop(output);
  tcp_drop(peer);
  say("served " + heard);
}

function udp(port: i32, message: string): void {
  create_udp_socket(0, ret);
  if (failed("create", 4)) return;
  const socket = load<i32>(ret + 4);
  udp_start_bind(socket, instance_network(), 0, 0, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, ret);
  if (failed("start-bind", 1)) return;
  wait(udp_subscribe(socket));
  udp_finish_bind(socket, ret);
  if (failed("finish-bind", 1)) return;
  udp_stream(socket, 1, 0, port, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, ret);
  if (failed("stream", 4)) return;
  const incoming = load<i32>(ret + 4);
  const outgoing = load<i32>(ret + 8);
  udp_check_send(outgoing, ret);
  if (failed("check-send", 8)) return;
  const b = utf8(message);
  const datagram = memory.data(44);
  store<u32>(datagram, <u32>bytes(b));
  store<u32>(datagram + 4, b.byteLength);
  store<u8>(datagram + 8, 0);
  udp_send(outgoing, datagram, 1, ret);
  if (failed("send", 8)) return;
  wait(udp_incoming(incoming));
  udp_receive(incoming, 1, ret);
  if (failed("receive", 4)) return;
  const list = load<u32>(ret + 4);
  say("got " + String.UTF8.decodeUnsafe(load<u32>(list), load<u32>(list + 4)) + " from port " + load<u16>(list + 12).toString());
}

function resolve(name: string): void {
  const b = utf8(name);
  resolve_addresses(instance_network(), bytes(b), b.byteLength, ret);
  if (failed("resolve-addresses", 4)) return;
  const stream = load<i32>(ret + 4);
  wait(resolve_subscribe(stream));
  for (;;) {
    resolve_next(stream, ret);
    if (failed("resolve-next-address", 2)) return;
    if (load<u8>(ret + 2) == 0) return;
    if (load<u8>(ret + 4) == 0) {
      say(load<u8>(ret + 6).toString() + "." + load<u8>(ret + 7).toString() + "." + load<u8>(ret + 8).toString() + "." + load<u8>(ret + 9).toString());
    } else {
      let s = "";
      for (let i = 0; i < 8; i++) s += (i ? ":" : "") + load<u16>(ret + 6 + 2 * i).toString(16);
      say(s);
    }
  }
}

/** `body` empty: GET, else POST. */
function http(scheme: i32, authority: string, path: string, body: string): void {
  const fields = fields_new();
  const name = utf8("x-test");
  const value = utf8("from the guest");
  fields_append(fields, bytes(name), name.byteLength, bytes(value), value.byteLength, ret);
  if (failed("append", 1)) return;
  const request = request_new(fields);
  const a = utf8(authority);
  const p = utf8(path);
  if (body != "") set_method(request, 2, 0, 0);
  set_scheme(request, 1, scheme, 0, 0);
  set_authority(request, 1, bytes(a), a.byteLength);
  set_path(request, 1, bytes(p), p.byteLength);
  let outgoing = -1;
  if (body != "") {
    request_body(request, ret);
    if (failed("body", 4)) return;
    outgoing = load<i32>(ret + 4);
  }
  http_handle(request, 0, 0, ret);
  if (failed("handle", 8)) return;
  const future = load<i32>(ret + 8);
  if (outgoing >= 0) {
    body_write(outgoing, ret);
    if (failed("body-write", 4)) return;
    const stream = load<i32>(ret + 4);
    if (!writeAll(stream, body)) return;
    output_drop(stream);
    body_finish(outgoing, 0, 0, ret);
    if (failed("finish", 8)) return;
  }
  wait(future_subscribe(future));
  future_get(future, ret);
  if (load<u8>(ret + 16) != 0) {
    say(command + ": error response " + load<u8>(ret + 24).toString());
    return;
  }
  const response = load<i32>(ret + 24);
  const status = response_status(response);
  response_consume(response, ret);
  if (failed("consume", 4)) return;
  body_stream(load<i32>(ret + 4), ret);
  if (failed("stream", 4)) return;
  const length = readAll(load<i32>(ret + 4));
  say(status.toString() + " " + length.toString() + " " + text);
}

function run(c: string[]): void {
  command = c[0];
  if (command == "tcp") tcp(c[1], <i32>parseInt(c[2]), c[3]);
  else if (command == "pour") pour(c[1], <i32>parseInt(c[2]), <i32>parseInt(c[3]));
  else if (command == "drink") drink(c[1], <i32>parseInt(c[2]));
  else if (command == "serve") serve(<i32>parseInt(c[1]));
  else if (command == "udp") udp(<i32>parseInt(c[1]), c[2]);
  else if (command == "resolve") resolve(c[1]);
  else if (command == "http") http(0, c[1], c[2], c.length > 3 ? c[3] : "");
  else if (command == "https") http(1, c[1], c[2], c.length > 3 ? c[3] : "");
  else say("unknown command " + command);
}

const all = args();
let from = 1;
for (let i = 1; i <= all.length; i++) {
  if (i < all.length && all[i] != ";") continue;
  run(all.slice(from, i));
  from = i + 1;
}
