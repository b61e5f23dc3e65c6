-- What looks across users.

-- user to continue after, or '', limit: the last user seen, or '', and those who have sessions
function ops.list_users()
  local after, limit = ARGV[3], number(4)
  pcall(purge_users, 100, 1000)
  local users = call('ZRANGEBYLEX', P .. ':users', after == '' and '-' or '(' .. after, '+', 'LIMIT', 0, limit)
  local found, time = { #users == limit and users[limit] or '' }, now()
  for _, tag in ipairs(users) do
    local b = base(tag)
    if call('ZCARD', b .. 'index') > call('ZCOUNT', b .. 'expiry', '-inf', time) then
      found[#found + 1] = tag
    end
  end
  return found
end

-- place to continue after, or '', limit: sessions in the order of their ids; without fields if it has expired
function ops.list_all()
  local from = ARGV[3] == '' and '-' or '[' .. ARGV[3] .. '\1'
  local found = {}
  for _, member in ipairs(call('ZRANGEBYLEX', P .. ':sessions', from, '+', 'LIMIT', 0, number(4))) do
    local at = string.find(member, '\0', 1, true)
    local s = keys_of(sub(member, at + 1), sub(member, 1, at - 1))
    found[#found + 1] = s.id
    found[#found + 1] = s.tag
    found[#found + 1] = call('HGETALL', s.key)
  end
  return found
end

-- tag, session id, claim of the id or '', title, created, updated, version, number of pairs, pairs, '1' for
-- only a new one, rows of place, id, body
function ops.restore()
  local tag, token, count = ARGV[3], ARGV[5], number(10)
  local first = 12 + 2 * count
  local s = keys_of(tag, ARGV[4])
  local owner = owner_of_stored(s.id)
  if owner and ARGV[first - 1] == '1' then return { 'absent' } end
  if owner and owner ~= tag then return { 'taken' } end
  if not owner and is_fenced(token) then return { 'fenced', 's', s.id } end
  for i = first, #ARGV, 3 do
    if is_elsewhere(s, ARGV[i + 1]) then return { 'conflict' } end
  end
  local old = call('HMGET', s.key, 'u', 'e')
  s.updated, s.expires = old[1], old[2]
  call('HSET', s.key, 't', ARGV[6], 'c', ARGV[7], 'v', ARGV[9])
  for _, field in ipairs(others(s, 11, count)) do call('HDEL', s.key, field) end
  set_metadata(s, 11, count)
  register(s, owner and '' or token)
  for i = first, #ARGV, 3 do
    local place, id = ARGV[i], ARGV[i + 1]
    local member, former = find(s, id)
    if member then
      call('ZREM', s.order, member)
      if sub(former, 1, 18) == sub(place, 1, 18) then place = former end
    end
    insert_at(s, place, id, ARGV[i + 2])
  end
  set_updated(s, ARGV[8])
  return { 'ok' }
end

-- -- Claims of ids on a cluster, where the id of a session or a message may be in the slot of any user ---------

-- kind, id, claim, seconds to keep it or '': the claim that holds
function ops.claim()
  local key = P .. ':' .. ARGV[3] .. ':' .. ARGV[4]
  local held = call('GET', key)
  if held then return held end
  call('SET', key, ARGV[5])
  if ARGV[6] ~= '' then call('EXPIRE', key, ARGV[6]) end
  return ARGV[5]
end

-- kind, id, claim that may be replaced, claim, seconds or '': the claim that holds
function ops.reclaim()
  local key = P .. ':' .. ARGV[3] .. ':' .. ARGV[4]
  local held = call('GET', key)
  if held and held ~= ARGV[5] then return held end
  call('SET', key, ARGV[6])
  if ARGV[7] ~= '' then call('EXPIRE', key, ARGV[7]) end
  return ARGV[6]
end

-- kind, id, claim that may be removed
function ops.release()
  local key = P .. ':' .. ARGV[3] .. ':' .. ARGV[4]
  if call('GET', key) == ARGV[5] then call('DEL', key) end
  return 0
end

-- kind, id, token of a claim, in the slot of its user: whether the id is stored. If not, no call stores it under
-- this claim any more.
function ops.fence()
  local id = ARGV[4]
  local is_stored
  if ARGV[3] == 's' then is_stored = owner_of_stored(id) else is_stored = is_registered(id) end
  if is_stored then return 1 end
  call('SET', P .. ':fence:' .. ARGV[5], '', 'EX', FENCE)
  return 0
end

local result = ops[name]()
if #released > 0 then return { '\0released', released, result } end
return result
