// A peer that speaks Secret Handshake and box stream by the JavaScript reference
// (npm secret-handshake, pull-box-stream), for test_secret_handshake.py.
//
//   node shs_peer.js server APPKEY SEED
//   node shs_peer.js client APPKEY SEED PORT SERVER-KEY SIZE...
//
// APPKEY, SEED and SERVER-KEY are hex.  What happens is told as JSON, a line each.
//
// The server echoes until it is told goodbye, and then says goodbye.  The client sends
// SIZE bytes and waits for them to come back, size after size; then it says goodbye
// and waits for the other's.
'use strict'

const net = require('net')
const pull = require('pull-stream')
const toPull = require('stream-to-pull-stream')
const chloride = require('chloride')
const shs = require('secret-handshake')

const HANDSHAKE_MS = 10000

function tell(what) {
  process.stdout.write(JSON.stringify(what) + '\n')
}

// What a stream's end says: true is the goodbye, anything else an error.
function ending(end) {
  return end && end !== true ? { error: String(end.message || end) } : { goodbye: true }
}

// A source of what is pushed into it.
function outbox() {
  const waiting = []
  let ended = false
  let ask = null
  function give() {
    if (ask === null) return
    if (waiting.length > 0) {
      const cb = ask
      ask = null
      cb(null, waiting.shift())
    } else if (ended) {
      const cb = ask
      ask = null
      cb(true)
    }
  }
  return {
    source(abort, cb) {
      if (abort) {
        ended = true
        return cb(abort)
      }
      ask = cb
      give()
    },
    push(data) {
      waiting.push(data)
      give()
    },
    end() {
      ended = true
      give()
    }
  }
}

function serve(appKey, keys) {
  const create = shs.createServer(keys, (_key, cb) => cb(null, true), appKey, HANDSHAKE_MS)
  const server = net.createServer(socket => {
    const stream = toPull.duplex(socket)
    const secured = create((err, channel) => {
      if (err) return tell({ event: 'refused', error: String(err.message) })
      tell({ event: 'opened', peer: channel.remote.toString('hex') })
      pull(
        channel.source,
        pull.through(null, end => tell({ event: 'ended', ...ending(end) })),
        channel.sink
      )
    })
    pull(stream, secured, stream)
  })
  server.listen(0, '127.0.0.1', () => {
    tell({ port: server.address().port, publicKey: keys.publicKey.toString('hex') })
  })
}

function pattern(size) {
  const data = Buffer.alloc(size)
  for (let i = 0; i < size; i++) data[i] = (i * 7 + size) % 251
  return data
}

function dial(appKey, keys, port, serverKey, sizes) {
  const socket = net.connect(port, '127.0.0.1')
  const stream = toPull.duplex(socket)
  const out = outbox()
  const left = sizes.slice()
  let received = Buffer.alloc(0)
  function next() {
    if (left.length === 0) return out.end()
    out.push(pattern(left[0]))
  }
  const secured = shs.createClient(keys, appKey, HANDSHAKE_MS)(serverKey, (err, channel) => {
    if (err) {
      tell({ event: 'refused', error: String(err.message) })
      return socket.destroy()
    }
    tell({ event: 'opened', peer: channel.remote.toString('hex') })
    pull(out.source, channel.sink)
    pull(
      channel.source,
      pull.drain(
        data => {
          received = Buffer.concat([received, data])
          if (left.length === 0 || received.length < left[0]) return
          tell({ event: 'echoed', size: left[0], same: received.equals(pattern(left[0])) })
          received = Buffer.alloc(0)
          left.shift()
          next()
        },
        end => tell({ event: 'ended', ...ending(end) })
      )
    )
    next()
  })
  pull(stream, secured, stream)
}

const [role, appKey, seed, port, serverKey, ...sizes] = process.argv.slice(2)
const keys = chloride.crypto_sign_seed_keypair(Buffer.from(seed, 'hex'))
if (role === 'server') {
  serve(Buffer.from(appKey, 'hex'), keys)
} else {
  dial(
    Buffer.from(appKey, 'hex'),
    keys,
    Number(port),
    Buffer.from(serverKey, 'hex'),
    sizes.map(Number)
  )
}
