// The JavaScript reference of the secure channel (npm secret-handshake, pull-box-stream)
// as a child of the bench.  What a child does is told in peers/__init__.py.
'use strict'

const crypto = require('crypto')
const net = require('net')
const readline = require('readline')
const pull = require('pull-stream')
const toPull = require('stream-to-pull-stream')
const chloride = require('chloride')
const shs = require('secret-handshake')

const LIFETIME_MS = 300000
const HANDSHAKE_MS = 10000
const AT_ONCE = 16
const COUNT_BYTES = 8

const appKey = Buffer.from(Array.from({ length: 32 }, (_, i) => i))
const keys = chloride.crypto_sign_seed_keypair(crypto.randomBytes(32))

setTimeout(() => process.exit(1), LIFETIME_MS).unref()

function seconds() {
  return Number(process.hrtime.bigint()) / 1e9
}

function cpu() {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1e6
}

// A source of what is pushed into it; give() makes more when it is asked for some.
function outbox(more) {
  const waiting = []
  let ask = null
  const box = {
    source(abort, cb) {
      if (abort) return cb(abort)
      if (waiting.length > 0) return cb(null, waiting.shift())
      const made = more()
      if (made !== null) return cb(null, made)
      ask = cb
    },
    push(data) {
      if (ask === null) return waiting.push(data)
      const cb = ask
      ask = null
      cb(null, data)
    }
  }
  return box
}

function nothing() {
  return null
}

// How a connection ends is not measured; it may well be reset.
function ended() {}

function listen() {
  const create = shs.createServer(keys, (_key, cb) => cb(null, true), appKey, HANDSHAKE_MS)
  const server = net.createServer(socket => {
    socket.setNoDelay(true)
    socket.on('error', ended)
    const stream = toPull.duplex(socket)
    const secured = create((err, channel) => {
      if (err) return
      const out = outbox(nothing)
      let head = Buffer.alloc(0)
      let left = 0
      pull(
        channel.source,
        pull.drain(data => {
          let size = data.length
          if (left === 0) {
            head = Buffer.concat([head, data])
            if (head.length < COUNT_BYTES) return
            left = Number(head.readBigUInt64BE(0))
            size = head.length - COUNT_BYTES
            head = Buffer.alloc(0)
          }
          left -= size
          if (left === 0) out.push(Buffer.from('!'))
        }, ended)
      )
      pull(out.source, channel.sink)
    })
    pull(stream, secured, stream)
  })
  return new Promise(resolve => {
    server.listen(0, '127.0.0.1', 511, () => {
      resolve({ port: server.address().port, key: keys.publicKey.toString('hex') })
    })
  })
}

const client = shs.createClient(keys, appKey, HANDSHAKE_MS)

function dial(address) {
  return new Promise((resolve, reject) => {
    const socket = net.connect(address.port, '127.0.0.1')
    socket.setNoDelay(true)
    const stream = toPull.duplex(socket)
    const secured = client(Buffer.from(address.key, 'hex'), (err, channel) => {
      if (err) return reject(err)
      resolve({ socket, channel })
    })
    pull(stream, secured, stream)
  })
}

let sender = null

async function connect({ address }) {
  const { channel } = await dial(address)
  sender = { left: 0, piece: null, arrived: null }
  sender.out = outbox(() => {
    if (sender.left === 0) return null
    sender.left -= sender.piece.length
    return sender.piece
  })
  pull(sender.out.source, channel.sink)
  pull(channel.source, pull.drain(() => sender.arrived(), ended))
}

async function send({ count, write }) {
  const start = seconds()
  const used = cpu()
  const head = Buffer.alloc(COUNT_BYTES)
  head.writeBigUInt64BE(BigInt(count), 0)
  await new Promise(resolve => {
    sender.arrived = resolve
    sender.piece = crypto.randomBytes(write)
    sender.left = count
    sender.out.push(head)
  })
  return { seconds: seconds() - start, cpu: cpu() - used }
}

async function handshakes(options) {
  const start = seconds()
  const used = cpu()
  let made = 0
  async function dialler() {
    while (seconds() - start < options.seconds) {
      const { socket } = await dial(options.address)
      made++
      socket.resetAndDestroy()
    }
  }
  await Promise.all(Array.from({ length: options.at_once }, dialler))
  return { made, seconds: seconds() - start, cpu: cpu() - used }
}

const held = []

async function hold({ address, count }) {
  let left = count
  async function opener() {
    while (left-- > 0) {
      const { socket, channel } = await dial(address)
      pull(outbox(nothing).source, channel.sink)
      pull(channel.source, pull.drain(() => {}, ended))
      held.push(socket)
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, opener))
  return held.length
}

const jobs = {
  listen,
  connect,
  send,
  handshakes,
  hold,
  cpu: async () => cpu(),
  collect: async () => {
    // Twice: what the first one frees may free more.
    global.gc()
    global.gc()
    return null
  }
}

readline
  .createInterface({ input: process.stdin })
  .on('line', async line => {
    let answer
    try {
      const { job, ...options } = JSON.parse(line)
      answer = { done: await jobs[job](options) }
      if (answer.done === undefined) answer.done = null
    } catch (err) {
      answer = { failed: String((err && err.stack) || err) }
    }
    process.stdout.write(JSON.stringify(answer) + '\n')
  })
  .on('close', () => process.exit(0))
